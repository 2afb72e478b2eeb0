# Pieces that the demo is made of: words on the screen, waiting, ports, and processes that end with their cluster.
# Sourced by demo/demo. Uses $state (a folder) and $logs (a folder).
#
# A process is known by its pid and by when it started, as one line "NAME PID START" in $state/processes. Nothing is
# ever ended by name, and a pid that the kernel gave to somebody else in the meantime is left alone.

say() {
    printf '%s\n' "$*"
}

fail() {
    printf 'demo: %s\n' "$*" >&2
    exit 1
}

# show_log NAME: the end of a log, for a step that failed.
show_log() {
    local log=$logs/$1.log
    if [ -s "$log" ]; then
        printf -- '--- the end of %s\n' "$log" >&2
        tail -n 20 "$log" >&2
    fi
}

# wait_until SECONDS COMMAND...: polls until the command succeeds.
wait_until() {
    local tries=$(($1 * 20))
    shift
    while ! "$@" >/dev/null 2>&1; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || return 1
        sleep 0.05
    done
}

# answers PORT: somebody listens there.
answers() {
    (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

# choose_port WISH: the wished port, or a free one below the range from which the kernel serves outgoing connections.
choose_port() {
    local port=$1 tries=200
    while answers "$port" || [[ " $ports_taken " == *" $port "* ]]; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || fail "no free port found"
        port=$((10000 + RANDOM % 20000))
    done
    ports_taken+=" $port"
    chosen=$port
}
ports_taken=

# started PID: when it started, in clock ticks since boot; fails when there is no such process.
started() {
    local stat
    stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
    # What is in parentheses may hold blanks; the start is the 22nd field, the 20th after them.
    # shellcheck disable=SC2086 # splitting is wanted
    set -- ${stat##*) }
    # A zombie has ended.
    [ "$1" != Z ] && echo "${20}"
}

# start NAME COMMAND...: starts a process in a session of its own (Ctrl-C is for us, not for it) and records it.
start() {
    local name=$1 pid
    shift
    setsid "$@" >>"$logs/$name.log" 2>&1 </dev/null 9>&- &
    pid=$!
    printf '%s %s %s\n' "$name" "$pid" "$(started "$pid")" >>"$state/processes"
}

# process_id NAME
process_id() {
    awk -v name="$1" '$1 == name { print $2 }' "$state/processes"
}

# lives PID START
lives() {
    [ "$(started "$1")" = "$2" ]
}

gone() {
    ! lives "$1" "$2"
}

# all_live: every recorded process is there.
all_live() {
    [ -s "$state/processes" ] || return 1
    local name pid start
    while read -r name pid start; do
        lives "$pid" "$start" || return 1
    done <"$state/processes"
}

# ready NAME SECONDS COMMAND...: waits until the command succeeds, and no longer than the process lives.
ready() {
    local name=$1 seconds=$2 pid start
    shift 2
    read -r pid start < <(awk -v name="$name" '$1 == name { print $2, $3 }' "$state/processes")
    if ! wait_until "$seconds" eval "gone $pid $start || $(printf '%q ' "$@")" || gone "$pid" "$start"; then
        show_log "$name"
        fail "$name did not start"
    fi
}

# stop_all: ends what was started, last first, politely and then for certain.
stop_all() {
    [ -s "$state/processes" ] || return 0
    local name pid start
    while read -r name pid start; do
        if lives "$pid" "$start"; then
            kill "$pid" 2>/dev/null || true
            if ! wait_until 10 gone "$pid" "$start"; then
                say "$name ($pid) does not end: killed" >&2
                kill -9 "$pid" 2>/dev/null || true
                wait_until 5 gone "$pid" "$start" || true
            fi
        fi
    done < <(tac "$state/processes")
    rm -f "$state/processes"
}
