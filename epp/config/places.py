"""Who does what: profiles, handler, parsers, discovery, sources, from the plugins that were made.

Fills in what the configuration leaves out, as the reference does. Flow control is checked for names and has no effect yet.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from epp.config.assembly import Installed, ProfileSpec, SourceSpec, Use
from epp.config.catalogue import FLOW_CONTROL
from epp.config.document import Path
from epp.config.load import Loaded
from epp.config.problems import Problems
from epp.config.schema import DataSource, PriorityBand, ProfilePlugin, SchedulingProfile

if TYPE_CHECKING:
    from epp.config.assemble import Part, Workshop

PICKER, HANDLER = "max-score-picker", "single-profile-handler"
PARSERS = ("openai-parser", "anthropic-parser", "vllmhttp-parser", "passthrough-parser")  # those that are registered
SOURCE, EXTRACTOR = "metrics-data-source", "core-metrics-extractor"
_IN_PROFILES = frozenset({"filter", "scorer", "picker"})


class Places:
    """Puts the plugins of one configuration where they belong. Errors and warnings are noted in `problems`."""

    def __init__(self, loaded: Loaded, workshop: Workshop, problems: Problems) -> None:
        """Take the configuration, and the workshop that has made its plugins."""
        self._loaded = loaded
        self._config = loaded.config
        self._workshop = workshop
        self._problems = problems
        self._placed: set[str] = set()
        self._profile_count = len(self._config.scheduling_profiles) or 1

    # --- scheduling ---

    def profiles(self) -> list[ProfileSpec]:
        """Build the profiles; without any, one of everything there is."""
        configured = self._config.scheduling_profiles
        if configured:
            return [
                spec
                for index, profile in enumerate(configured)
                if (spec := self._profile(profile, ("schedulingProfiles", index)))
            ]
        everything = [
            ProfilePlugin.model_validate({"pluginRef": name})
            for name, part in self._workshop.parts.items()
            if part.described.kinds & _IN_PROFILES
        ]
        spec = self._profile(SchedulingProfile(name="default", plugins=everything), ())
        return [spec] if spec else []

    def _profile(self, profile: SchedulingProfile, path: Path) -> ProfileSpec | None:
        filters: list[Use] = []
        scorers: list[Use] = []
        picker: Installed | None = None
        for index, entry in enumerate(profile.plugins):
            place = (*path, "plugins", index) if path else ()
            part = self._profile_part(entry, place)
            if part is None:
                continue
            kinds, installed = part.described.kinds, part.installed
            use = Use(installed, 1.0 if entry.weight is None else entry.weight, entry.on_error or "skip")
            if "filter" in kinds:
                filters.append(use)
            if "scorer" in kinds:
                scorers.append(use)
            if "picker" in kinds and picker is not None:
                message = f"profile {profile.name!r} has two pickers, {picker.name!r} and {installed.name!r}: keep one"
                self._problems.error(place or part.path, message)
            elif "picker" in kinds:
                picker = installed
        picker = picker or self._default_picker(path)
        return ProfileSpec(profile.name, tuple(filters), tuple(scorers), picker) if picker else None

    def _profile_part(self, entry: ProfilePlugin, place: Path) -> Part | None:
        name, part = entry.plugin_ref, self._workshop.parts.get(entry.plugin_ref)
        if part is None:
            if name not in self._workshop.failed:
                known = [one for one, other in self._workshop.parts.items() if other.described.kinds & _IN_PROFILES]
                self._problems.missing((*place, "pluginRef"), name, known, self._workshop.inert)
            return None
        kinds = part.described.kinds
        self._placed.add(name)
        if not kinds & _IN_PROFILES:
            self._problems.warn(place, f"{name!r} is a {' and '.join(sorted(kinds))}; in a profile it has no effect")
        if entry.weight is not None and "scorer" not in kinds:
            self._problems.warn((*place, "weight"), f"{name!r} is no scorer; its weight has no effect")
        if entry.on_error is not None and "filter" not in kinds:
            self._problems.warn((*place, "onError"), f"{name!r} is no filter; onError has no effect")
        return part

    def _default_picker(self, path: Path) -> Installed | None:
        """Take the first configured picker, else the reference's default."""
        pickers = self._workshop.of_kind("picker")
        part = pickers[0] if pickers else self._workshop.create(PICKER, path)
        if part is None:
            return None
        self._placed.add(part.installed.name)
        return part.installed

    def handler(self) -> Installed | None:
        """Find the profile handler; with one profile it may be left out."""
        handlers = self._workshop.of_kind("profile handler")
        if not handlers:
            if self._profile_count > 1:
                message = f"{self._profile_count} profiles need a profile handler: list one in plugins"
                if not self._workshop.failed:  # else the handler may be what could not be made
                    self._problems.error(("schedulingProfiles",), message)
                return None
            part = self._workshop.create(HANDLER, ())
            return part.installed if part else None
        for other in handlers[1:]:
            message = f"there is a profile handler already, {handlers[0].installed.name!r}: keep one"
            self._problems.error(other.path, message)
        handler = handlers[0].installed
        if handlers[0].described.name == HANDLER and self._profile_count > 1:
            message = f"{HANDLER} runs one profile, but there are {self._profile_count}"
            self._problems.error(handlers[0].path, message)
        return handler

    # --- requests ---

    def parsers(self) -> list[Installed]:
        """Find the parsers; without any, the default ones that this build has."""
        handler = self._config.request_handler
        if handler is None or not handler.parsers:
            names = [name for name in PARSERS if name in self._workshop.registry or name in self._workshop.parts]
            parts = [self._workshop.require(name, "parser", (), create=True) for name in names]
            self._placed.update(names)
            return [part.installed for part in parts if part]
        found: list[Part] = []
        moved = "requestHandler" not in self._loaded.document.value
        for index, reference in enumerate(handler.parsers):
            path: Path = ("parser",) if moved else ("requestHandler", "parsers", index)
            part = self._workshop.require(reference.plugin_ref, "parser", (*path, "pluginRef"), create=True)
            self._placed.add(reference.plugin_ref)
            if part is None:
                continue
            if any(other.described.cls is part.described.cls for other in found):
                self._problems.warn(path, f"a second {part.described.name} has no effect")
                continue
            if any(not getattr(other.described.cls, "paths", ()) for other in found):
                self._problems.warn(path, "never reached: a parser before it takes every path; put that one last")
            found.append(part)
        return [part.installed for part in found]

    # --- endpoints ---

    def discovery(self) -> Installed | None:
        """Find the plugin that finds the endpoints."""
        reference = self._loaded.data_layer.discovery
        if reference is None:
            return None
        path = (self._data_key, "discovery", "pluginRef")
        part = self._workshop.require(reference.plugin_ref, "discovery", path, create=False)
        self._placed.add(reference.plugin_ref)
        return part.installed if part else None

    @property
    def _data_key(self) -> str:
        return "dataLayer" if self._config.data_layer is not None else "data"

    def sources(self) -> list[SourceSpec]:
        """Find the sources of signals; the metrics source is added unless `injectDefaults` is false."""
        layer = self._loaded.data_layer
        found: list[SourceSpec] = []
        for index, source in enumerate(layer.sources):
            spec = self._source(source, (self._data_key, "sources", index))
            if spec:
                found.append(spec)
        has_metrics = any(self._type(spec.source.name) == SOURCE for spec in found)
        if layer.inject_defaults and not has_metrics:
            metrics, extractor = self._one_of(SOURCE), self._one_of(EXTRACTOR)
            if metrics and extractor:
                found.append(SourceSpec(metrics, (extractor,)))
        if not found:
            self._problems.warn(
                (self._data_key,), "no source of signals: metrics are not collected, scorers that read them know nothing"
            )
        return found

    def _source(self, source: DataSource, path: Path) -> SourceSpec | None:
        part = self._workshop.require(source.plugin_ref, "data source", (*path, "pluginRef"), create=False)
        self._placed.add(source.plugin_ref)
        extractors = []
        for index, reference in enumerate(source.extractors):
            place = (*path, "extractors", index, "pluginRef")
            extractor = self._workshop.require(reference.plugin_ref, "extractor", place, create=False)
            self._placed.add(reference.plugin_ref)
            if extractor:
                extractors.append(extractor.installed)
        return SourceSpec(part.installed, tuple(extractors)) if part else None

    def _one_of(self, kind: str) -> Installed | None:
        """Take the configured plugin of a type, else create it if this build has it."""
        for name, part in self._workshop.parts.items():
            if part.described.name == kind:
                self._placed.add(name)
                return part.installed
        made = self._workshop.create(kind, ()) if kind in self._workshop.registry else None
        return made.installed if made else None

    def _type(self, name: str) -> str:
        return self._workshop.parts[name].described.name

    # --- what has no effect yet ---

    def flow_control(self) -> None:
        """Check the names in the flow control section, and say that it does nothing yet."""
        flow = self._config.flow_control
        if self._loaded.gates.get("flowControl"):
            index = next(i for i, gate in enumerate(self._config.feature_gates) if gate.partition("=")[0] == "flowControl")
            self._problems.warn(("featureGates", index), "accepted without effect: this build does not queue requests yet")
        if flow is None:
            return
        if "flowControl" in self._loaded.document.value:
            self._problems.warn(("flowControl",), "accepted without effect: this build does not queue requests yet")
        for name, path in self._policies():
            known = {*self._workshop.parts, *self._workshop.inert, *self._workshop.failed, *FLOW_CONTROL}
            if name not in known:
                self._problems.missing(path, name, known, {})
            self._placed.add(name)

    def _policies(self) -> Iterator[tuple[str, Path]]:
        """Give every name the flow control section refers to, and where."""
        flow = self._config.flow_control
        if flow is None:
            return
        if flow.saturation_detector and flow.saturation_detector.plugin_ref:
            moved = "saturationDetector" not in (self._loaded.document.value.get("flowControl") or {})
            path: Path = ("saturationDetector",) if moved else ("flowControl", "saturationDetector")
            yield flow.saturation_detector.plugin_ref, (*path, "pluginRef")
        if flow.usage_limit_policy_plugin_ref:
            yield flow.usage_limit_policy_plugin_ref, ("flowControl", "usageLimitPolicyPluginRef")
        bands: list[tuple[PriorityBand | None, Path]] = [
            (flow.default_priority_band, ("flowControl", "defaultPriorityBand")),
            (flow.default_negative_priority_band, ("flowControl", "defaultNegativePriorityBand")),
            *((band, ("flowControl", "priorityBands", index)) for index, band in enumerate(flow.priority_bands)),
        ]
        for band, place in bands:
            if band and band.fairness_policy_ref:
                yield band.fairness_policy_ref, (*place, "fairnessPolicyRef")
            if band and band.ordering_policy_ref:
                yield band.ordering_policy_ref, (*place, "orderingPolicyRef")

    def without_effect(self) -> None:
        """Say what of the data layer is accepted and does nothing."""
        layer = self._loaded.data_layer
        for key, value in (
            ("peerDiscovery", layer.peer_discovery),
            ("crossReplicaSyncerPluginRef", layer.cross_replica_syncer_plugin_ref),
            ("crossReplicaSyncInterval", layer.cross_replica_sync_interval),
        ):
            if value:
                self._problems.warn((self._data_key, key), "accepted without effect: replicas share no state yet")
        if layer.peer_discovery:
            self._placed.add(layer.peer_discovery.plugin_ref)
        self._placed.add(layer.cross_replica_syncer_plugin_ref)

    def unused(self) -> None:
        """Warn of plugins that are listed, but that nothing refers to."""
        roles = {"filter", "scorer", "picker", "parser", "discovery", "data source", "extractor"}
        for name, part in self._workshop.parts.items():
            kinds = part.described.kinds
            if kinds <= roles and name not in self._placed and name not in self._workshop.created:
                self._problems.warn(part.path, f"{name!r} is listed, but nothing refers to it")
