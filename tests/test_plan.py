"""What the words of a binding come to, and a start that is stopped at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tunnel.config import BindingConfig
from tunnel.daemon.plan import binding_policy, rebound
from tunnel.daemon.plugins import load_policy
from tunnel.errors import TunnelError, UsageError
from tunnel.policy.binding import BindingPolicy, Combined, Term
from tunnel.policy.interface import InterfaceType
from tunnel.policy.shielded import Shielded


def test_a_binding_is_changed_list_by_list_and_an_empty_spec_lifts_one() -> None:
    was = BindingConfig(bind=("wifi",), prohibit=("wired",), policy="theirs", dwell=7)
    now = rebound(was, {"request": "set", "bind": "cellular, if:eth0", "avoid": None})
    assert now == BindingConfig(bind=("cellular", "if:eth0"), prohibit=("wired",), dwell=7)
    assert rebound(now, {"bind": "", "prohibit": ""}) == BindingConfig(dwell=7)
    for wrong in ({}, {"bind": None}, {"avoid": 7}):
        with pytest.raises(UsageError, match=r"give --bind|SPEC as a string"):
            rebound(was, wrong)


def test_policies_are_found_by_entry_point_and_combine_with_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "their-1.0.dist-info"
    folder.mkdir()
    (folder / "entry_points.txt").write_text(
        "[tunnel.policies]\nany = tunnel.policy.binding:BindingPolicy\n"
        "path = tunnel.policy.path:Path\nlist = builtins:list\ngone = tunnel.policy:gone\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    shielded = Shielded("any", BindingPolicy())
    assert load_policy("any") == shielded
    assert binding_policy(BindingConfig(bind=("policy:any",)), {}) == shielded
    assert binding_policy(BindingConfig(policy="any"), {}) == shielded
    both = binding_policy(BindingConfig(bind=("wifi", "policy:any")), {})
    wifi = BindingPolicy((Term(InterfaceType.WIFI),))
    assert both == Combined((wifi, shielded))
    faults = {
        "no": "is not installed; there are",
        "path": "cannot be made",
        "list": "has no `decide`",
        "gone": "policy gone cannot be loaded",
    }
    for name, said in faults.items():
        with pytest.raises(TunnelError, match=said):
            load_policy(name)


def test_a_hang_up_while_it_is_being_imported_ends_nothing() -> None:
    code = (
        "import os, signal, sys, types\n"
        "def main(): os.kill(os.getpid(), signal.SIGHUP); print('goes on')\n"
        "service = types.ModuleType('tunnel.daemon.service'); service.main = main\n"
        "sys.modules['tunnel.daemon.service'] = service\n"
        "from tunnel.daemon.start import main; main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"goes on\n", b"")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_while_it_is_being_imported_is_an_orderly_end(name: str) -> None:
    code = (
        "import os, signal, sys, types\n"
        "def main(): os.kill(os.getpid(), signal.%s); signal.pause()\n"
        "service = types.ModuleType('tunnel.daemon.service'); service.main = main\n"
        "sys.modules['tunnel.daemon.service'] = service\n"
        "from tunnel.daemon.start import main; main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code % name], capture_output=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
