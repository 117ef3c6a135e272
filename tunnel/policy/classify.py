"""What kind of network an interface leads to, and how we know.

Linux has no single answer, so evidence is asked in order of its worth and the first hit wins:
what the user said; what the network managers say; what the driver wrote into sysfs; the link-layer
type (ARPHRD); the rtnetlink kind; the USB driver; real Ethernet hardware; and last the name, which
anybody can change. The answer carries the evidence, so that a wrong one can be understood and
overridden with --classify.

`classify` is pure. `read_facts` is the only part that looks at sysfs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tunnel.policy.interface import Classification, Confidence, InterfaceType

ARPHRD_ETHER = 1
ARPHRD_PPP = 512
ARPHRD_RAWIP = 519
ARPHRD_LOOPBACK = 772

_DEVTYPES = {
    "wwan": InterfaceType.CELLULAR,
    "wlan": InterfaceType.WIFI,
    "bluetooth": InterfaceType.BLUETOOTH,
}
_LINK_TYPES = {
    ARPHRD_LOOPBACK: (InterfaceType.LOOPBACK, Confidence.CERTAIN),
    ARPHRD_RAWIP: (InterfaceType.CELLULAR, Confidence.LIKELY),
    # Modems mostly; PPPoE and old VPNs look the same, hence no more than a guess.
    ARPHRD_PPP: (InterfaceType.CELLULAR, Confidence.GUESS),
}
TUNNEL_KINDS = frozenset(
    ("tun", "wireguard", "amneziawg", "ovpn", "xfrm", "vti", "vti6", "ipip", "sit", "gre",
     "gretap", "ip6tnl", "ip6gre", "ip6gretap", "erspan", "ip6erspan")
)  # fmt: skip
_KINDS = {
    "rmnet": InterfaceType.CELLULAR,
    "wwan": InterfaceType.CELLULAR,
    **dict.fromkeys(TUNNEL_KINDS, InterfaceType.TUNNEL),
    **dict.fromkeys(("bridge", "bond", "team", "vrf", "dummy", "ifb"), InterfaceType.OTHER),
}
_USB_DRIVERS = dict.fromkeys(
    ("qmi_wwan", "cdc_mbim", "huawei_cdc_ncm", "sierra_net", "hso", "ipheth", "rndis_host"),
    InterfaceType.CELLULAR,
)
_PREDICTABLE = r"[opsux][0-9a-f]"  # onboard, slot, PCI path, USB port, MAC: systemd's names
_NAMES = (
    (re.compile(rf"wwan\d|ww{_PREDICTABLE}|rmnet|ccmni\d"), InterfaceType.CELLULAR),
    (re.compile(rf"wlan\d|wl{_PREDICTABLE}|ath\d|ra\d"), InterfaceType.WIFI),
    (re.compile(r"bnep\d|pan\d"), InterfaceType.BLUETOOTH),
    (re.compile(r"tun\d|tap\d|wg\d|utun\d|ipsec\d"), InterfaceType.TUNNEL),
    (re.compile(rf"eth\d|en{_PREDICTABLE}|lan\d"), InterfaceType.WIRED),
)


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of one interface before judging. `override` is the user's word, `manager` that
    of NetworkManager or ModemManager.
    """

    name: str
    arphrd: int = ARPHRD_ETHER
    kind: str | None = None
    devtype: str | None = None
    phy80211: bool = False
    driver: str | None = None
    bluetooth: bool = False
    hardware: bool = False
    override: InterfaceType | None = None
    manager: Classification | None = None


def classify(facts: Facts) -> Classification:
    """Return the type with the best evidence; OTHER as a guess when there is none."""
    if facts.override is not None:
        return Classification(facts.override, "as configured", Confidence.CERTAIN)
    # Phones and modems that look like Ethernet are just that to NetworkManager: asked below.
    if facts.manager is not None and facts.manager.type is not InterfaceType.WIRED:
        return facts.manager
    if facts.devtype in _DEVTYPES:
        evidence = f"sysfs DEVTYPE={facts.devtype}"
        return Classification(_DEVTYPES[facts.devtype], evidence, Confidence.CERTAIN)
    if facts.phy80211:
        return Classification(InterfaceType.WIFI, "sysfs phy80211", Confidence.CERTAIN)
    if facts.bluetooth:
        evidence = "sysfs bluetooth device"
        return Classification(InterfaceType.BLUETOOTH, evidence, Confidence.CERTAIN)
    if facts.arphrd in _LINK_TYPES:
        type_, confidence = _LINK_TYPES[facts.arphrd]
        return Classification(type_, f"link type ARPHRD {facts.arphrd}", confidence)
    if facts.kind in _KINDS:
        return Classification(_KINDS[facts.kind], f"link kind {facts.kind}", Confidence.CERTAIN)
    if facts.driver in _USB_DRIVERS:
        evidence = f"USB driver {facts.driver}"
        return Classification(_USB_DRIVERS[facts.driver], evidence, Confidence.LIKELY)
    if facts.manager is not None:
        return facts.manager
    if facts.hardware and facts.kind is None and facts.arphrd == ARPHRD_ETHER:
        return Classification(InterfaceType.WIRED, "Ethernet hardware", Confidence.LIKELY)
    for pattern, type_ in _NAMES:
        if pattern.match(facts.name):
            return Classification(type_, f"name {facts.name}", Confidence.GUESS)
    return Classification(InterfaceType.OTHER, "no evidence", Confidence.GUESS)


def read_facts(
    name: str,
    arphrd: int,
    kind: str | None,
    *,
    override: InterfaceType | None = None,
    sysfs: Path = Path("/sys"),
) -> Facts:
    """Add what sysfs knows of an interface to what rtnetlink said. Never raises: absent is None."""
    folder = sysfs / "class" / "net" / name
    device = folder / "device"
    try:
        lines = (folder / "uevent").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    devtype = next((s.removeprefix("DEVTYPE=") for s in lines if s.startswith("DEVTYPE=")), None)
    return Facts(
        name=name,
        arphrd=arphrd,
        kind=kind,
        devtype=devtype,
        phy80211=(folder / "phy80211").exists(),
        driver=_target(device / "driver"),
        bluetooth=_target(device / "subsystem") == "bluetooth",
        hardware=device.exists(),
        override=override,
    )


def _target(link: Path) -> str | None:
    try:
        return link.readlink().name
    except OSError:
        return None
