#!/usr/bin/env bash
# call.sh FUNCTION ARGUMENTS...: one verb of tools.sh in a process of its own, so that time(1) can measure it.
set -euo pipefail
# shellcheck source=tools.sh
source "$(dirname "$0")/tools.sh"
"$@"
