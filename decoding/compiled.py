"""How the kernels are compiled by numba, and where what was compiled is kept."""

import hashlib
from pathlib import Path

import numba

# sums may be taken in any order, so that loops become vector instructions
OPTIONS = {"fastmath": {"reassoc", "contract", "arcp", "nsz", "nnan"}, "cache": True, "nogil": True,
           "error_model": "numpy"}

if not numba.config.CACHE_DIR:
    # numba looks at a function's own file only, but the kernels call those of other files
    sources = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
    folder = Path(__file__).parent / "__pycache__" / hashlib.sha256(sources).hexdigest()[:12]
    numba.config.CACHE_DIR = str(folder)
