from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.cli.goflags import Option, normalised

OPTIONS = {
    "grpc-port": Option("grpc_port", "--grpc-port"),
    "secure-serving": Option("secure_serving", "--secure-serving", switch=True),
    "v": Option("v", "-v"),
    "endpoints": Option("endpoints", "--endpoints"),
}


@pytest.mark.parametrize(
    ("given", "written"),
    [
        (["--grpc-port=1"], ["--grpc-port", "1"]),
        (["--grpc-port", "1"], ["--grpc-port", "1"]),
        (["-grpc-port=1"], ["--grpc-port", "1"]),
        (["-grpc-port", "1"], ["--grpc-port", "1"]),
        (["--grpc-port", "-1"], ["--grpc-port", "-1"]),
        (["--grpc-port"], ["--grpc-port"]),
        (["--secure-serving"], ["--secure-serving", "true"]),
        (["--secure-serving=false"], ["--secure-serving", "false"]),
        (["--secure-serving", "false"], ["--secure-serving", "false"]),
        (["-secure-serving", "-v=2"], ["--secure-serving", "true", "-v", "2"]),
        (["--secure-serving", "x"], ["--secure-serving", "true", "x"]),
        (["-v", "2"], ["-v", "2"]),
        (["--v=2"], ["-v", "2"]),
        (["--endpoints", "--secure-serving"], ["--endpoints", "--secure-serving"]),
        (["--endpoints="], ["--endpoints", ""]),
        (["--endpoints=a=b"], ["--endpoints", "a=b"]),
        (["--unknown=1", "x"], ["--unknown=1", "x"]),
        (["--", "-v=2"], ["--", "-v=2"]),
        ([], []),
    ],
)
def test_gos_spellings_become_one(given: list[str], written: list[str]) -> None:
    """With an equals sign or a blank, one dash or two, a boolean with its value or without."""
    assert normalised(given, OPTIONS)[0] == written


def test_what_was_given_is_known() -> None:
    """So that a default is told from the same value given."""
    assert normalised(["-v=2", "--secure-serving", "--grpc-port", "1", "x"], OPTIONS)[1] == ["v", "secure_serving", "grpc_port"]


@given(
    st.lists(st.sampled_from(["-v", "-v=2", "--secure-serving", "false", "--grpc-port", "1", "x", "--", "--endpoints=a", "-"]))
)
def test_what_is_written_once_is_not_written_otherwise_again(arguments: list[str]) -> None:
    """Rewriting is stable, and drops nothing that is no known option."""
    written, _ = normalised(arguments, OPTIONS)
    assert normalised(written, OPTIONS)[0] == written
    assert written.count("x") == arguments.count("x")
