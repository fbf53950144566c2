"""Keys of services: where they are looked for, and which are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.keys import LONGEST, BadKey, find_key

KEY = b"sk-4b1f9c0d2e7a"

# Name -> (content of the file, its mode, what is wrong with it).
FILES: dict[str, tuple[bytes, int, str | None]] = {
    "private": (KEY + b"\n", 0o600, None),
    "read-only": (KEY, 0o400, None),
    "the group may read it": (KEY, 0o640, "others than you may open .* chmod 600"),
    "all may read it": (KEY, 0o604, "others than you may open"),
    "the group may write it": (KEY, 0o620, "others than you may open"),
    "empty": (b" \n", 0o600, "holds no key"),
    "something else": (KEY * LONGEST, 0o600, "holds no key"),
    "no text": (b"\xff\xfe\x00", 0o600, "characters that no key has"),
    "two lines": (KEY + b"\n" + KEY, 0o600, "characters that no key has"),
}


@pytest.mark.parametrize("name", FILES)
def test_key_files(name: str, tmp_path: Path) -> None:
    content, mode, wrong = FILES[name]
    path = tmp_path / "key"
    path.write_bytes(content)
    path.chmod(mode)
    environment = {"MY_KEY_FILE": str(path)}
    if wrong is None:
        assert find_key("MY_KEY", environment) == KEY.decode()
        return
    with pytest.raises(BadKey, match=f"(?s){wrong}") as caught:
        find_key("MY_KEY", environment)
    assert KEY.decode() not in str(caught.value)


def test_a_variable_goes_before_its_file(tmp_path: Path) -> None:
    assert find_key("K", {}) == ""
    assert find_key("K", {"K": " a \n", "K_FILE": str(tmp_path / "none")}) == "a"
    with pytest.raises(BadKey, match="none, cannot be read: No such file"):
        find_key("K", {"K_FILE": str(tmp_path / "none")})


def test_a_file_may_be_in_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "key").touch(mode=0o600)
    (tmp_path / "key").write_bytes(KEY)
    assert find_key("K", {"K_FILE": "~/key"}) == KEY.decode()
