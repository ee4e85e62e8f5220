# An agent in shell: it takes the id, which comes first in the line, and climbs.
while read -r line; do
    id=${line#\{\"id\": }
    printf '{"id": %s, "content": "climb"}\n' "${id%%,*}"
done
