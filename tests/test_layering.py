"""Dependencies run one way (design.md). Each module may import from its own layer and below."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import tunnel

ROOT = Path(__file__).parent.parent

#: Lowest first. A module belongs to the longest prefix that fits; the rest of tunnel/ is lowest.
LAYERS = (
    ("tunnel",),
    (
        "tunnel.primitives",
        "tunnel.flow",
        "tunnel.stacklink",
        "tunnel.bind",
        "tunnel.engine",
        "tunnel.tun",
    ),
    ("tunnel.policy", "tunnel.netstack", "tunnel.provider", "tunnel.proxy"),
    ("tunnel.daemon", "tunnel.testing"),
)
#: The native module is for these alone; primitives are its single operations.
NATIVE = {
    "tunnel.engine", "tunnel.flow", "tunnel.netstack.aio.hostedlink",
    "tunnel.netstack.aio.unitlink", "tunnel.primitives", "tunnel.stacklink",
}  # fmt: skip
#: Cores that do no I/O and read no clock.
PURE = (
    "tunnel.policy.binding", "tunnel.policy.routing", "tunnel.policy.path", "tunnel.policy.change",
    "tunnel.policy.interface", "tunnel.policy.numbers", "tunnel.policy.rtnl",
    "tunnel.policy.networks", "tunnel.policy.interfacetables", "tunnel.policy.tunnelroutes",
    "tunnel.policy.difference", "tunnel.policy.lookup", "tunnel.policy.guard",
    "tunnel.policy.advert", "tunnel.policy.rivals", "tunnel.policy.loopguard",
    "tunnel.policy.patience", "tunnel.policy.networkmanager", "tunnel.policy.modemmanager",
    "tunnel.daemon.status",
    "tunnel.daemon.report", "tunnel.daemon.words", "tunnel.wgquick", "tunnel.tomlform",
    "tunnel.describe", "tunnel.settings", "tunnel.errors", "providers.wireguard.messages",
    "providers.wireguard.noise", "providers.wireguard.handshake", "providers.wireguard.cookie",
    "providers.wireguard.timers", "providers.wireguard.peer", "providers.wireguard.device",
    "providers.wireguard.change", "providers.wireguard.uapi", "tunnel.places",
    "tunnel.proxy.httphead", "tunnel.proxy.httpbody",
)  # fmt: skip
#: Packages that are pure throughout, but for the shells in them.
PURE_PACKAGES = ("tunnel.netstack.", "tunnel.policy.killswitch.")
SHELLS = (
    "tunnel.netstack.aio", "tunnel.policy.killswitch.kernel", "tunnel.policy.killswitch.note",
    "tunnel.policy.killswitch.sessions", "tunnel.policy.killswitch.switch",
    "tunnel.policy.killswitch.watch",
)  # fmt: skip
IMPURE = {"asyncio", "socket", "time", "select", "subprocess", "threading"}
#: Modules that providers may use whole: how configuration is written.
PUBLIC_MODULES = {"tunnel.values", "tunnel.saveconfig"}


def dotted(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {dotted(p): p for top in ("tunnel", "providers") for p in (ROOT / top).rglob("*.py")}


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (module, name) of every import, those for type checkers left out."""
    tree = ast.parse(path.read_text())
    typing = {
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and "TYPE_CHECKING" in ast.unparse(branch.test)
        for node in ast.walk(branch)
    }
    for node in ast.walk(tree):
        if id(node) in typing:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            yield from ((node.module, alias.name) for alias in node.names)


def layer(module: str) -> int:
    def fits(prefix: str) -> bool:
        return module == prefix or module.startswith(f"{prefix}.")

    ranks = [(len(p), i) for i, prefixes in enumerate(LAYERS) for p in prefixes if fits(p)]
    return max(ranks)[1]


def test_dependencies_run_one_way() -> None:
    wrong = []
    for name, path in MODULES.items():
        for target, what in imports(path):
            top = target.split(".")[0]
            full = f"{target}.{what}" if f"{target}.{what}" in MODULES else target
            if full == "tunnel._core" and name not in NATIVE:
                wrong.append(f"{name} imports the native module")
            elif name.startswith("tunnel") and top == "providers":
                wrong.append(f"{name} imports {full}: the framework knows no provider")
            elif name.startswith("tunnel.") and top == "tunnel" and layer(full) > layer(name):
                wrong.append(f"{name} imports {full}, which is above it")
            elif name.startswith("providers") and top == "tunnel":
                public = what in tunnel.__all__ or full in PUBLIC_MODULES
                if not public:
                    wrong.append(f"{name} imports {target}.{what}, which is not public")
    assert not wrong, "\n".join(wrong)


def test_pure_cores_do_no_io() -> None:
    assert set(PURE) <= set(MODULES), set(PURE) - set(MODULES)
    inside = {name for name in MODULES if name.startswith(PURE_PACKAGES)}
    pure = {*PURE, *(name for name in inside if not name.startswith(SHELLS))}
    found = {(name, module) for name in pure for module, _ in imports(MODULES[name])}
    assert not {(name, module) for name, module in found if module.split(".")[0] in IMPURE}
