# An agent in awk: it climbs where it stands on the ladder, which it reads in the newest message.
# mawk reads ahead and waits unless it is run as: awk -W interactive -f climb.awk
{
    match($0, /"id": [0-9]+/)
    id = substr($0, RSTART + 6, RLENGTH - 6)
    move = /rung [0-9] of [0-9]/ ? "climb" : "rest"
    printf "{\"id\": %s, \"content\": \"%s\"}\n", id, move
    fflush()
}
