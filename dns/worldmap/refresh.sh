#!/usr/bin/env bash
# Replaces the built-in world map by another version of its package: the newest, or the one given.
# The old one stays in place until the new one has been checked. Needs npm (with its node)
# and openssl.
#
#   dns/worldmap/refresh.sh [VERSION]
set -euo pipefail

package=@ip-location-db/geo-whois-asn-country-mmdb
database=geo-whois-asn-country.mmdb
data=$(cd "$(dirname "$0")" && pwd)/data
# Beside the data, so that the last step is a rename.
scratch=$(mktemp -d "$data/.refresh.XXXXXX")
trap 'rm -rf "$scratch"' EXIT

field() { # FILE KEY: a text member of a JSON object
  node -e 'process.stdout.write(String(JSON.parse(require("fs").readFileSync(process.argv[1]))[process.argv[2]] ?? ""))' "$1" "$2"
}

version=${1:-$(npm view "$package" version)}
declared=$(npm view "$package@$version" dist.integrity)
tarball=$(cd "$scratch" && npm pack --silent "$package@$version")
found=sha512-$(openssl dgst -sha512 -binary "$scratch/$tarball" | openssl base64 -A)
if [ "$found" != "$declared" ]; then
  echo "$tarball is $found, its metadata says $declared" >&2
  exit 1
fi
tar -xzf "$scratch/$tarball" -C "$scratch" package
# A change of licence is for a person to look at, not for a script to take over.
licence=$(field "$scratch/package/package.json" license)
if [ "$licence" != CC0-1.0 ] || ! cmp -s "$scratch/package/NRO_LICENSE" "$data/NRO_LICENSE"; then
  echo "the licence of $package@$version has changed (now $licence); see data/README.md" >&2
  exit 1
fi
sha256=$(sha256sum "$scratch/package/$database" | cut -d' ' -f1)

cat > "$scratch/README.md" <<END
# The built-in world map

\`$database\`: countries of IPv4 and IPv6 networks, in MaxMind's format. Written by
\`dns/worldmap/refresh.sh\`; do not edit.

| | |
|---|---|
| package | \`$package\` |
| version | $version |
| licence | CC0-1.0 (package metadata); registry data CC BY 4.0, see below |
| integrity | \`$declared\` |
| SHA-256 | \`$sha256\` |
| fetched | $(date -u +%F) |

**Attribution.** The package declares CC0-1.0. Its README says that the registries' data in it is
licensed under CC BY 4.0 by the Number Resource Organization (NRO, nro.net); we keep to the
stricter of the two. \`NRO_LICENSE\` is the package's copy of the notice and must go wherever the
database goes. The database is unchanged.

**What is wrong with it.** The packager says that the data published this way has mistakes and that
updates through the package will end; corrected data is in the releases of the ip-location-db
project. We saw a Japanese academic network (2001:200::/32) in Australia, where its registry sits,
and a country for documentation networks (RFC 5737, RFC 3849). Our tests check known networks of
every continent, so a refresh that breaks the data for many fails. An operator's own database replaces this one.
END
mv "$scratch/package/$database" "$data/$database"
mv "$scratch/README.md" "$data/README.md"
echo "$package $version is in place; now: cargo test -p dns-worldmap"
