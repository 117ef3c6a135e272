from __future__ import annotations

from pathlib import Path

import pytest

from tunnel.errors import MissingFacilityError, UsageError
from tunnel.policy.cgroup import control_group


@pytest.fixture
def mounts(tmp_path: Path) -> Path:
    (tmp_path / "c g" / "user.slice" / "one").mkdir(parents=True)
    point = str(tmp_path / "c g").replace(" ", "\\040")
    listed = tmp_path / "mountinfo"
    listed.write_text(
        "24 1 0:22 / /proc rw - proc proc rw\n"
        "30 24 0:26 / /old rw - cgroup cgroup rw,memory\n"
        f"31 24 0:27 / {point} rw,nosuid shared:9 - cgroup2 cgroup2 rw\n"
    )
    return listed


@pytest.mark.parametrize("name", ["user.slice/one", "/user.slice/one/", "{0}/user.slice/one"])
def test_a_group_is_named_by_its_folder_or_its_path(mounts: Path, name: str) -> None:
    folder = mounts.parent / "c g" / "user.slice" / "one"
    found = control_group(name.format(mounts.parent / "c g"), mounts)
    assert (found.path, found.level) == ("user.slice/one", 2)
    assert (found.folder, found.number) == (str(folder), folder.stat().st_ino)


@pytest.mark.parametrize("name", ["/", "", ".", "user.slice/two", "../c g/user.slice", "{0}", "/x"])
def test_what_is_no_group_or_everything_is_refused(mounts: Path, name: str) -> None:
    with pytest.raises(UsageError, match="--cgroup: "):
        control_group(name.format(mounts.parent / "c g"), mounts)


def test_without_the_file_system_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "mountinfo").write_text("24 1 0:22 / /proc rw - proc proc rw\n")
    with pytest.raises(MissingFacilityError, match="no cgroup2"):
        control_group("user.slice", tmp_path / "mountinfo")
