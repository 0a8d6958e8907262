"""`epp envoy`: print an Envoy configuration. Everything about its content is decided in `epp.gateway`."""

from __future__ import annotations

from typing import Annotated

import typer

from epp.gateway.wiring import Failure, HostPort, Mode, PickerTls, Wiring


def envoy(
    *,
    mode: Annotated[Mode, typer.Option(help="How much of an exchange the picker sees; docs/envoy.md compares them.")] = Mode.HELD,
    failure: Annotated[Failure, typer.Option(help="Without a picker: any ready model server, or 503.")] = Failure.OPEN,
    listen: Annotated[str, typer.Option(help="Where clients connect.", metavar="HOST:PORT")] = "0.0.0.0:8080",
    admin: Annotated[str, typer.Option(help="Envoy's admin interface.", metavar="HOST:PORT")] = "127.0.0.1:9901",
    picker: Annotated[str, typer.Option(help="The picker's ext_proc port.", metavar="HOST:PORT")] = "127.0.0.1:9002",
    picker_tls: Annotated[
        str,
        typer.Option(
            metavar="off|unverified|FILE.pem",
            help="TLS to the picker: none, any certificate (as `epp serve` makes its own), or one signed by the CA in FILE.pem.",
        ),
    ] = "unverified",
    picker_name: Annotated[
        str, typer.Option(help="Name the picker's certificate must carry; the host of --picker if not given.", metavar="NAME")
    ] = "",
    node: Annotated[
        str, typer.Option(help="Names this Envoy to the picker; %HOSTNAME% for the host's name with --service-node.")
    ] = "epp-gateway",
    pool: Annotated[str, typer.Option(help="Name under which the picker is asked for the endpoints.")] = "pool",
    usage: Annotated[bool, typer.Option(help="Read token usage from answers (held and released mode).")] = True,
    reveal_served: Annotated[
        bool, typer.Option("--reveal-served", help="Name the model server that answered in the header x-served-endpoint.")
    ] = False,
) -> None:
    """Print an Envoy configuration (YAML) that asks the picker for each request."""
    from epp.gateway.config import render

    try:
        wiring = Wiring(
            mode=mode,
            failure=failure,
            listen=HostPort.parse(listen),
            admin=HostPort.parse(admin),
            picker=HostPort.parse(picker),
            picker_tls=PickerTls.parse(picker_tls, picker_name),
            node=node,
            pool=pool,
            usage=usage,
            reveal_served=reveal_served,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    print(render(wiring), end="")
