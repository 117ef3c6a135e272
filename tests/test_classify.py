from __future__ import annotations

from pathlib import Path

import pytest

from tunnel.policy.classify import Facts, classify, read_facts
from tunnel.policy.interface import Confidence, InterfaceType

CELLULAR, WIFI, WIRED = InterfaceType.CELLULAR, InterfaceType.WIFI, InterfaceType.WIRED
TUNNEL, OTHER, LOOPBACK = InterfaceType.TUNNEL, InterfaceType.OTHER, InterfaceType.LOOPBACK
BLUETOOTH = InterfaceType.BLUETOOTH
CERTAIN, LIKELY, GUESS = Confidence.CERTAIN, Confidence.LIKELY, Confidence.GUESS

# Each row is decided by the evidence named last, against weaker evidence that says otherwise.
TABLE = [
    (Facts("wlan0", override=CELLULAR, devtype="wlan"), CELLULAR, CERTAIN, "configured"),
    (Facts("eth0", devtype="wwan", phy80211=True), CELLULAR, CERTAIN, "DEVTYPE=wwan"),
    (Facts("eth0", devtype="wlan", kind="tun"), WIFI, CERTAIN, "DEVTYPE=wlan"),
    (Facts("eth0", devtype="bluetooth"), BLUETOOTH, CERTAIN, "DEVTYPE=bluetooth"),
    (Facts("wwan0", phy80211=True, arphrd=519), WIFI, CERTAIN, "phy80211"),
    (Facts("eth0", bluetooth=True, driver="rndis_host"), BLUETOOTH, CERTAIN, "bluetooth"),
    (Facts("wlan0", arphrd=519, kind="tun"), CELLULAR, LIKELY, "ARPHRD 519"),
    (Facts("eth0", arphrd=512), CELLULAR, GUESS, "ARPHRD 512"),
    (Facts("wlan0", arphrd=772), LOOPBACK, CERTAIN, "ARPHRD 772"),
    (Facts("wlan0", arphrd=65534, kind="tun"), TUNNEL, CERTAIN, "kind tun"),
    (Facts("eth1", arphrd=65534, kind="wireguard"), TUNNEL, CERTAIN, "kind wireguard"),
    (Facts("eth1", kind="rmnet"), CELLULAR, CERTAIN, "kind rmnet"),
    (Facts("eth1", kind="bridge"), OTHER, CERTAIN, "kind bridge"),
    (Facts("eth1", driver="qmi_wwan", hardware=True), CELLULAR, LIKELY, "driver qmi_wwan"),
    (Facts("usb0", driver="rndis_host", hardware=True), CELLULAR, LIKELY, "driver rndis_host"),
    (Facts("wlan0", driver="virtio_net", hardware=True), WIRED, LIKELY, "Ethernet hardware"),
    (Facts("wwan0", kind="veth"), CELLULAR, GUESS, "name wwan0"),
    (Facts("rmnet_data0"), CELLULAR, GUESS, "name rmnet_data0"),
    (Facts("wlp3s0"), WIFI, GUESS, "name wlp3s0"),
    (Facts("enx001122334455", kind="veth"), WIRED, GUESS, "name enx"),
    (Facts("uplink", kind="veth"), OTHER, GUESS, "no evidence"),
    (Facts("wladimir", kind="veth"), OTHER, GUESS, "no evidence"),
]


@pytest.mark.parametrize(("facts", "type_", "confidence", "evidence"), TABLE)
def test_first_hit_wins(
    facts: Facts, type_: InterfaceType, confidence: Confidence, evidence: str
) -> None:
    found = classify(facts)
    assert (found.type, found.confidence) == (type_, confidence)
    assert evidence in found.evidence


def test_sysfs_is_read_from_its_root(tmp_path: Path) -> None:
    folder = tmp_path / "class" / "net" / "eth5"
    device = tmp_path / "devices" / "usb1"
    (tmp_path / "bus" / "drivers" / "cdc_mbim").mkdir(parents=True)
    device.mkdir(parents=True)
    folder.mkdir(parents=True)
    (folder / "uevent").write_text("DEVTYPE=wwan\nINTERFACE=eth5\n")
    (folder / "device").symlink_to(device)
    (device / "driver").symlink_to(tmp_path / "bus" / "drivers" / "cdc_mbim")
    (device / "subsystem").symlink_to(tmp_path / "bus" / "bluetooth")
    facts = read_facts("eth5", 1, None, sysfs=tmp_path)
    assert facts == Facts("eth5", devtype="wwan", driver="cdc_mbim", bluetooth=True, hardware=True)
    (folder / "phy80211").mkdir()
    assert read_facts("eth5", 1, "veth", override=WIFI, sysfs=tmp_path).phy80211


def test_an_interface_without_sysfs_has_no_evidence_there(tmp_path: Path) -> None:
    assert read_facts("wwan0", 1, "veth", sysfs=tmp_path) == Facts("wwan0", kind="veth")
