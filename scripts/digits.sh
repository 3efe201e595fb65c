#!/usr/bin/env bash
# FlexiViT on handwritten digits, trained and evaluated from nothing: minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh
enter_environment .venv -r requirements.txt -e .
python train.py --config configs/flexivit_digits.py --workdir runs/flexivit
python evaluate.py --checkpoint runs/flexivit --output runs/flexivit/eval
echo "The report is runs/flexivit/eval/report.html"
