"""`python healthy.py URL`: exit code 0 where it answers 200. The image has neither curl nor wget."""

import sys
import urllib.request

with urllib.request.urlopen(sys.argv[1], timeout=5) as answer:
    sys.exit(answer.status != 200)
