# The native module's face. tests/test_engine.py holds it against the library's real names.
from typing import Any

ffi: Any
lib: Any
