#!/usr/bin/env bash
# The fast tests, in an environment that this makes: .venv-test.
#
#   bash scripts/tests.sh                  # all
#   bash scripts/tests.sh tests/core -x    # with arguments of pytest
#   bash scripts/tests.sh -m slow          # the slow ones
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh
enter_environment .venv-test -r requirements-dev.txt -e .
python -m pytest -n 2 --dist loadfile "$@"
