# What the recipes share; each of them sources this file after `set`.

die() {
  echo "$0: $1" >&2
  exit 2
}

# Print the comment at the head of the recipe for --help, and refuse flags and a wrong number of
# arguments.
arguments() { # usage least most ("": any number), then those of the recipe
  local usage=$1 least=$2 most=$3
  shift 3
  case "${1-}" in
    -h | --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p;}' "$0"; exit 0 ;;
    -*) die "unknown flag $1; usage: $usage" ;;
  esac
  local expected="$least to $most"
  [[ $most != "" ]] || expected="$least or more"
  [[ $most != "$least" ]] || expected=$least
  (($# >= least && $# <= ${most:-$#})) || die "$# arguments, expected $expected; usage: $usage"
}

count() { # name value example
  [[ $2 =~ ^[1-9][0-9]{0,8}$ ]] || die "$1 '$2' is no whole number from 1; try $1=$3"
}
