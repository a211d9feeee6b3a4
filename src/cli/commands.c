/* The table of commands. */
#include <stddef.h>

#include "cli/command.h"
#include "cli/demo.h"
#include "load/load.h"

#define FLAG_WAIT                                                                                            \
    {                                                                                                        \
        "wait", 0, NULL, "follow it to its end", NULL                                                        \
    }
#define FLAG_DRY                                                                                             \
    {                                                                                                        \
        "dry-run", 0, NULL, "only check, and say what is in the way", NULL                                   \
    }
#define FLAG_BAKE                                                                                            \
    {                                                                                                        \
        "bake", 0, "DURATION", "so long it can be taken back (0s: not at all)", NULL                         \
    }
#define FLAG_ALLOW_DDL                                                                                       \
    {                                                                                                        \
        "allow-ddl", 0, NULL, "go back rather than refuse DDL on its tables, until the fence is near", NULL  \
    }
#define FLAG_TO                                                                                              \
    {                                                                                                        \
        "to", 0, "SHARD", "the shard that gets the range (default: a new one)", "shards"                     \
    }
#define FLAG_KEY                                                                                             \
    {                                                                                                        \
        "key", 0, "KEY", "instead of a hash: that of this key", NULL                                         \
    }
#define FLAG_TABLE                                                                                           \
    {                                                                                                        \
        "table", 0, "TABLE", "whose type the key has (default: the first)", NULL                             \
    }
#define FLAG_LO                                                                                              \
    {                                                                                                        \
        "lo", 0, "HASH", "the lowest hash that goes", NULL                                                   \
    }
#define FLAG_HI                                                                                              \
    {                                                                                                        \
        "hi", 0, "HASH", "the highest hash that goes", NULL                                                  \
    }

static const struct args_flag apply_flags[] = {
    {"filename", 'f', "FILE", "the specification; \"-\" is stdin", "file"},
    {"dry-run", 0, NULL, "only check", NULL},
    FLAG_WAIT,
    {0}};
static const struct args_flag delete_flags[] = {
    {"confirm", 0, "NAME", "the database's name again", "databases"}, FLAG_WAIT, {0}};
static const struct args_flag wait_flags[] = {
    {"for", 0, "CONDITION", "done (operation), ready or deleted (database)", "done|ready|deleted"}, {0}};
static const struct args_flag top_flags[] = {{"once", 0, NULL, "one picture, also on a terminal", NULL}, {0}};
static const struct args_flag split_flags[] = {
    {"at", 0, "HASH", "the first hash that goes (default: half of the widest range)", NULL},
    FLAG_KEY,
    FLAG_TABLE,
    FLAG_TO,
    FLAG_BAKE,
    FLAG_ALLOW_DDL,
    FLAG_DRY,
    FLAG_WAIT,
    {0}};
static const struct args_flag move_flags[] = {
    FLAG_TO,  FLAG_LO,    FLAG_HI,   {"at", 0, "HASH", "from this hash on", NULL},
    FLAG_KEY, FLAG_TABLE, FLAG_BAKE, FLAG_ALLOW_DDL,
    FLAG_DRY, FLAG_WAIT,  {0}};
static const struct args_flag merge_flags[] = {
    {"into", 0, "SHARD", "who takes it over (default: its neighbour)", "shards"},
    FLAG_BAKE,
    FLAG_ALLOW_DDL,
    FLAG_DRY,
    FLAG_WAIT,
    {0}};
static const struct args_flag drain_flags[] = {
    {"to", 0, "SHARD", "who gets all of it (default: each range the neighbour that owns less)", "shards"},
    FLAG_BAKE,
    FLAG_ALLOW_DDL,
    FLAG_DRY,
    FLAG_WAIT,
    {0}};
static const struct args_flag upgrade_flags[] = {FLAG_BAKE, FLAG_ALLOW_DDL, FLAG_DRY, FLAG_WAIT, {0}};
static const struct args_flag isolate_flags[] = {
    FLAG_KEY, FLAG_TABLE, {"at", 0, "HASH", "instead of a key: this hash of SHARD", NULL},
    FLAG_TO,  FLAG_BAKE,  FLAG_ALLOW_DDL,
    FLAG_DRY, FLAG_WAIT,  {0}};
static const struct args_flag rebalance_flags[] = {
    {"to", 0, "SHARD", "the shard that gets the range", "shards"},
    {"at", 0, "HASH", "the first hash that goes (default: half of the widest range)", NULL},
    FLAG_LO,
    FLAG_HI,
    FLAG_KEY,
    FLAG_TABLE,
    FLAG_BAKE,
    FLAG_ALLOW_DDL,
    FLAG_DRY,
    FLAG_WAIT,
    {0}};
static const struct args_flag cancel_flags[] = {{"wait", 0, NULL, "until it went back", NULL}, {0}};
#define FLAG_ACCEPT                                                                                          \
    {                                                                                                        \
        "accept-differences", 0, NULL, "although the old rows are not what the new owner has", NULL          \
    }
static const struct args_flag rollback_flags[] = {
    {"wait", 0, NULL, "until it went back", NULL}, FLAG_ACCEPT, {0}};
static const struct args_flag resume_flags[] = {FLAG_ACCEPT, FLAG_WAIT, {0}};
static const struct args_flag migrate_flags[] = {
    {"filename", 'f', "FILE", "the script; \"-\" is stdin", "file"},
    {"resume", 0, "OPERATION", "go on with a migration that stopped", "operations"},
    {"lock-timeout", 0, "DURATION", "how long to wait for a lock before the next try (default: 2s)", NULL},
    {"attempts", 0, "N", "tries per shard, of what time can mend (default: 20)", NULL},
    {"dry-run", 0, NULL, "run it on every shard and roll it back", NULL},
    FLAG_WAIT,
    {0}};
static const struct args_flag switchover_flags[] = {
    {"to", 0, "INSTANCE", "the new primary (default: the standby that has most)", "instances"},
    {"wait", 0, NULL, "until clients are sent there", NULL},
    {0}};
static const struct args_flag failover_flags[] = {
    {"to", 0, "INSTANCE", "the new primary", "instances"},
    {"allow-data-loss", 0, NULL, "although writes that were acknowledged are lost", NULL},
    {"confirm", 0, "SHARD", "with --allow-data-loss: the shard's name again", "shards"},
    {"wait", 0, NULL, "until clients are sent there", NULL},
    {0}};
static const struct args_flag route_flags[] = {FLAG_TABLE, {0}};
static const struct args_flag check_flags[] = {
    {"config", 'c', "FILE", "the configuration of a manager", "file"},
    {"set", 0, "KEY=VALUE", "one key, as for the manager", NULL},
    {"print", 0, NULL, "print all keys with their values", NULL},
    {0}};
static const struct args_flag render_flags[] = {
    {"namespace", 'n', "NAME", "for all objects (default: that of the ShardedDatabase)", NULL},
    {"image", 0, "IMAGE", "where the specification names none (default: shardherd:latest)", NULL},
    {0}};

static const struct args_flag agent_flags[] = {
    {"data", 0, "DIR", "the data directory; its parent must exist", "file"},
    {"password-file", 0, "FILE", "the superuser's password, one line", "file"},
    {"wal", 0, "DIR", "a volume of its own for the write-ahead log", "file"},
    {"bin", 0, "DIR", "where postgres and initdb are (default: PATH)", "file"},
    {"run", 0, "DIR", "where the server's socket goes (default: /tmp)", "file"},
    {"settings", 0, "FILE", "settings to include into the server's configuration", "file"},
    {"tls", 0, "DIR", "tls.crt, tls.key and perhaps ca.crt: connections are then encrypted", "file"},
    {"client-certificates", 0, NULL, "let nobody in by TCP without a certificate of ca.crt", NULL},
    {"listen", 0, "LIST", "addresses that the server listens on (default: *)", NULL},
    {"port", 0, "PORT", "its port (default: 5432)", NULL},
    {"http-address", 0, "ADDRESS", "where probes are answered (default: 0.0.0.0; a member: 127.0.0.1)", NULL},
    {"http-port", 0, "PORT", "the port of that (default: 8008)", NULL},
    {"stop-timeout", 0, "DURATION", "how long an orderly stop may take (default: 60s)", NULL},
    {"member", 0, "NAME", "one of a shard's several instances: it does what it is assigned", NULL},
    {"token-file", 0, "FILE", "what callers of a member show, one line; mode 0600", "file"},
    {"http-tls", 0, "DIR", "a member's HTTP interface: tls.crt, tls.key and perhaps ca.crt for its callers",
     "file"},
    {NULL, 0, NULL, NULL, NULL},
};

static const struct args_flag manager_flags[] = {
    {"config", 'c', "FILE", "configuration (docs/configuration.md); without: defaults and environment",
     "file"},
    {"set", 0, "KEY=VALUE", "one key of it, e.g. --set state_directory=/var/tmp/sh", NULL},
    {"insecure-listen", 0, NULL, "listen beyond loopback although there is no authentication", NULL},
    {"ports-file", 0, "FILE", "write the ports here (default: manager.json in the state directory)", "file"},
    {0}};

const struct cli_command cli_commands[] = {
    {.name = "get",
     .summary = "list databases, shards, instances, operations, decisions, routing tables or applications",
     .usage = "get KIND [NAME...] [-o FORMAT] [-w]\nget KIND/NAME [-o FORMAT]",
     .details =
         "Prints one row for each. KIND is databases (db), shards, instances, operations (op), decisions,\n"
         "routing or applications (app: what in a Kubernetes cluster points at servers of the fleet, one "
         "row\n"
         "for each variable that does; -o wide says why one cannot be resolved). With -d only what belongs "
         "to that database. With -w it goes on and prints what changes.",
     .example = "shardherd get databases\nshardherd get shards -d shop -o wide\nshardherd get operations -w\n"
                "shardherd get routing shop -o json",
     .act = command_get,
     .words_least = 1,
     .words_most = ARGS_MAX,
     .completes = "kinds names"},
    {.name = "describe",
     .summary = "say everything about one database, shard, instance or operation",
     .usage = "describe database|shard|instance|operation NAME",
     .example = "shardherd describe database shop\nshardherd describe shard shop/s1\nshardherd describe "
                "operation m7k2p9xq",
     .act = command_describe,
     .words_least = 1,
     .words_most = 2,
     .completes = "kinds names"},
    {.name = "status",
     .summary = "how things stand: fleet, databases, operations, decisions, warnings",
     .usage = "status [-o FORMAT]",
     .example = "shardherd status\nshardherd status -o json | jq .ready",
     .act = command_status},
    {.name = "top",
     .summary = "the load of each shard; refreshes every second on a terminal",
     .usage = "top [shards] [--once]",
     .details = "Transactions, active sessions, WAL, size and lag of each shard, and how much of the "
                "threshold at which\n"
                "it counts as hot is used. Ctrl-C ends it. One picture if stdout is no terminal.",
     .example = "shardherd top\nshardherd top -d shop --once",
     .act = command_top,
     .flags = top_flags,
     .words_most = 1,
     .completes = "shards-word"},
    {.name = "events",
     .summary = "what happens: operations, decisions, routing, instances",
     .usage = "events [-w] [-o json]",
     .details = "Prints the state of things, and with -w every event after it, one a line.",
     .example = "shardherd events -w\nshardherd events -w -o json | jq -c .data",
     .act = command_events},
    {.name = "apply",
     .summary = "make a database from its specification, or change it",
     .usage = "apply -f FILE [--dry-run] [--wait]",
     .example = "shardherd apply -f config/shop.yaml --wait\nshardherd apply -f - --dry-run < shop.yaml",
     .act = command_apply,
     .flags = apply_flags},
    {.name = "delete",
     .summary = "remove a database with all its shards and rows",
     .usage = "delete database NAME --confirm=NAME [--wait]",
     .example = "shardherd delete database shop --confirm=shop --wait",
     .act = command_delete,
     .flags = delete_flags,
     .words_least = 1,
     .words_most = 2,
     .completes = "database names"},
    {.name = "wait",
     .summary = "wait until an operation ended, or a database is ready or gone",
     .usage = "wait operation ID [--timeout DURATION]\nwait database NAME [--for=ready|deleted] [--timeout "
              "DURATION]",
     .details = "Its exit code is 0 when that came true, 6 when the time (10m) is over, and 1 or 4 when the "
                "operation\n"
                "ended in another way.",
     .example = "shardherd wait operation m7k2p9xq\nshardherd wait database shop --for=ready --timeout 2m",
     .act = command_wait,
     .flags = wait_flags,
     .words_least = 1,
     .words_most = 2,
     .completes = "operation|database names"},
    {.name = "split",
     .summary = "give a part of a shard's hashes to a new shard",
     .usage = "split SHARD [--at HASH | --key KEY] [--dry-run] [--wait]",
     .example = "shardherd split s1 --dry-run\nshardherd split shop/s1 --wait\n"
                "shardherd split s1 --at 4611686018427387904 --bake 5s --wait",
     .act = command_move,
     .flags = split_flags,
     .words_least = 1,
     .words_most = 1,
     .completes = "shards"},
    {.name = "move",
     .summary = "give a range of hashes to another shard",
     .usage = "move SHARD [--to SHARD] [--lo HASH] [--hi HASH] [--dry-run] [--wait]",
     .details = "Without bounds, all of SHARD goes. Without --to, a new shard is made.",
     .example = "shardherd move s1 --to s2 --lo 0 --hi 99999 --wait",
     .act = command_move,
     .flags = move_flags,
     .words_least = 1,
     .words_most = 1,
     .completes = "shards"},
    {.name = "merge",
     .summary = "give all of a shard to its neighbour, and remove it",
     .usage = "merge SHARD [--into SHARD] [--dry-run] [--wait]",
     .example = "shardherd merge s3 --into s1 --wait",
     .act = command_move,
     .flags = merge_flags,
     .words_least = 1,
     .words_most = 1,
     .completes = "shards"},
    {.name = "drain",
     .summary = "give all ranges of a shard to others, and keep the shard",
     .usage = "drain SHARD [--to SHARD] [--bake DURATION] [--dry-run] [--wait]",
     .details =
         "One move after the other, since of one shard one move runs at a time: with a bake time each next "
         "one\n"
         "begins when that of the one before is over. Each is an operation that can be looked at, canceled "
         "and\n"
         "taken back; one that is, ends the drain, and what has gone stays where it is. While the state is\n"
         "\"waits\", \"shardherd describe operation\" says for what. The shard stays, empty, and gets ranges "
         "again\n"
         "by \"move --to\" or \"rebalance --to\"; one that is to go is merged instead. A dry run says which "
         "range "
         "would\n"
         "go where, and what stands in the way of each.",
     .example =
         "shardherd drain s3 --dry-run\nshardherd drain s3 --bake 0s --wait\nshardherd drain shop/s3 --to s1",
     .act = command_move,
     .flags = drain_flags,
     .words_least = 1,
     .words_most = 1,
     .completes = "shards"},
    {.name = "upgrade",
     .summary = "give all of a shard to a new one that runs a newer PostgreSQL, and remove it",
     .usage = "upgrade SHARD [--dry-run] [--wait]",
     .details =
         "Online: like a split, with everything. New servers are made with the newest PostgreSQL that the\n"
         "manager finds, or with that of runtime.bin_directory; in Kubernetes, with the image of the\n"
         "specification. It goes back when that is not newer than what the shard runs.",
     .example = "shardherd upgrade s1 --wait",
     .act = command_move,
     .flags = upgrade_flags,
     .words_least = 1,
     .words_most = 1,
     .completes = "shards"},
    {.name = "isolate",
     .summary = "give one key a shard of its own",
     .usage = "isolate [SHARD] --key KEY [--table TABLE] [--dry-run] [--wait]",
     .details = "Without SHARD, it is the one that owns the key.",
     .example = "shardherd isolate --key 42 --wait",
     .act = command_move,
     .flags = isolate_flags,
     .words_most = 1,
     .completes = "shards"},
    {.name = "rebalance",
     .summary = "give a part of a shard's hashes to a shard that exists",
     .usage = "rebalance SHARD --to SHARD [--at HASH] [--dry-run] [--wait]",
     .example = "shardherd rebalance s1 --to s2 --wait",
     .act = command_move,
     .flags = rebalance_flags,
     .words_least = 1,
     .words_most = 1,
     .completes = "shards"},
    {.name = "switchover",
     .summary = "make a standby of a shard its primary",
     .usage = "switchover SHARD [--to INSTANCE] [--wait]",
     .details =
         "For shards with several instances. The old primary stops when everything is on its way, the "
         "new one\n"
         "accepts writes when it has the last byte: nothing that was acknowledged is lost, and open "
         "sessions are\n"
         "ended. The old one follows. It is given up, and the primary stays, when the standby does not "
         "get there.",
     .example = "shardherd switchover s1 --wait\nshardherd switchover shop/s1 --to shop-s1-2 --wait",
     .act = command_switchover,
     .flags = switchover_flags,
     .words_least = 1,
     .words_most = 1,
     .completes = "shards"},
    {.name = "failover",
     .summary = "make a standby the primary of a shard whose primary is gone",
     .usage = "failover SHARD --to INSTANCE [--allow-data-loss --confirm SHARD] [--wait]",
     .details =
         "A shard is failed over by itself when enough of its instances confirm; \"shardherd describe "
         "shard\" and the\n"
         "manager's log say why it is not. This is for when the others do not come back: it is refused, "
         "and says what\n"
         "would be lost, unless --allow-data-loss is given. An old primary that still reaches its "
         "standbys goes on\n"
         "until it hears of the new one.",
     .example = "shardherd failover shop/s1 --to shop-s1-2\n"
                "shardherd failover shop/s1 --to shop-s1-2 --allow-data-loss --confirm s1 --wait",
     .act = command_failover,
     .flags = failover_flags,
     .words_least = 1,
     .words_most = 1,
     .completes = "shards"},
    {.name = "maintenance",
     .summary = "let nothing be decided about a shard, while somebody works on it",
     .usage = "maintenance SHARD on|off",
     .details =
         "For shards with several instances. While it is on there is no failover by itself, and no "
         "change of who helps\n"
         "acknowledge: commits may wait. A switchover can be asked for. It outlives the manager, until "
         "it is switched off.",
     .example = "shardherd maintenance shop/s1 on\nshardherd maintenance shop/s1 off",
     .act = command_maintenance,
     .words_least = 2,
     .words_most = 2,
     .completes = "shards"},
    {.name = "restart",
     .summary = "restart the instances of a shard, one after the other",
     .usage = "restart SHARD",
     .details =
         "For shards with several instances, with the local runtime. The standbys first, each when all "
         "others "
         "stream;\n"
         "then the primary, which hands over to one of them, and follows it. Nothing that was acknowledged "
         "is "
         "lost, and\n"
         "writes pause for the switchover only. They come back with the programs that the manager finds now: "
         "a "
         "new minor\n"
         "version is installed, or runtime.bin_directory names it, and then this. Waits until all stream "
         "(--timeout: 10 min).\n"
         "Interrupted, nothing is half done: begin anew.",
     .example = "shardherd restart s1\nshardherd restart shop/s1 --timeout 30m",
     .act = command_restart,
     .words_least = 1,
     .words_most = 1,
     .completes = "shards"},
    {.name = "migrate",
     .summary = "run a script of DDL on all shards of a database",
     .usage = "migrate -f FILE [-d DATABASE] [--lock-timeout DURATION] [--attempts N] [--dry-run] [--wait]\n"
              "migrate --resume OPERATION [--wait]",
     .details = "Shard after shard, each in one transaction, as the owner of its tables. A lock that is not "
                "to be had in\n"
                "time is asked for again after a pause. If the first shard refuses the script, nothing was "
                "changed. If a\n"
                "later one does, the migration stops there and says which shards have it: mend that shard "
                "and go on with\n"
                "--resume, or give it up with \"shardherd cancel\". Nothing is split or merged meanwhile.",
     .example = "shardherd migrate -f add_column.sql --dry-run\nshardherd migrate -f add_column.sql --wait\n"
                "shardherd migrate --resume migrk2p9xq --wait",
     .act = command_migrate,
     .flags = migrate_flags},
    {.name = "cancel",
     .summary = "ask an operation to go back",
     .usage = "cancel OPERATION [--wait]",
     .details = "An operation that is past its point of no return goes on, and says so (exit code 4).",
     .example = "shardherd cancel m7k2p9xq --wait",
     .act = command_back,
     .flags = cancel_flags,
     .words_least = 1,
     .words_most = 1,
     .completes = "operations"},
    {.name = "rollback",
     .summary = "take a move back, also after its point of no return",
     .usage = "rollback OPERATION [--wait] [--accept-differences]",
     .details =
         "Before the fence it is a cancel. After it, and until the bake time is over, the range goes back\n"
         "to where it came from, with everything that was written since. It is refused when the old rows\n"
         "are being deleted, with a bake time of 0, and after a failover of either shard (exit code 4); "
         "and,\n"
         "unless you accept them, while the operation knows of rows that differ: the old ones would count.",
     .example = "shardherd rollback splm7k2p9x --wait",
     .act = command_back,
     .flags = rollback_flags,
     .words_least = 1,
     .words_most = 1,
     .completes = "operations"},
    {.name = "resume",
     .summary = "let a move that is held, or a migration that stopped, go on",
     .usage = "resume OPERATION [--wait] [--accept-differences]",
     .details =
         "After the cutover the old rows are compared with the new owner's. Rows that differ hold the move, "
         "and\n"
         "\"shardherd describe operation\" names them. Once they are repaired, resume compares again; with\n"
         "--accept-differences it goes on without, and the old rows are deleted when the bake time is over.",
     .example = "shardherd resume splm7k2p9x --wait",
     .act = command_resume,
     .flags = resume_flags,
     .words_least = 1,
     .words_most = 1,
     .completes = "operations"},
    {.name = "route",
     .summary = "which shard owns a key",
     .usage = "route [DATABASE] KEY [--table TABLE]",
     .example = "shardherd route shop 42\nshardherd route -d shop -7",
     .act = command_route,
     .flags = route_flags,
     .words_least = 1,
     .words_most = 2,
     .completes = "databases"},
    {.name = "manager",
     .summary = "run a manager in the foreground",
     .usage = "manager [-c FILE] [--set KEY=VALUE]... [--insecure-listen] [--ports-file FILE]",
     .details = "Finds servers, polls them, decides, and runs operations. It logs to stderr and ends in "
                "order on SIGTERM\n"
                "or SIGINT; SIGHUP and a changed file make it read its configuration again.",
     .example =
         "shardherd manager -c config/shardherd.yaml\nshardherd manager --set state_directory=/var/tmp/sh",
     .local = command_manager,
     .flags = manager_flags},
    {.name = "agent",
     .summary = "run one PostgreSQL server and answer for it, as in a pod",
     .usage = "agent --data DIR --password-file FILE [--wal DIR] [--bin DIR] [--run DIR] [--settings FILE] "
              "[--tls DIR] [--client-certificates]\n"
              "[--listen LIST] [--port PORT] [--http-address ADDRESS] [--http-port PORT] [--stop-timeout "
              "DURATION]\n"
              "[--member NAME --token-file FILE] [--http-tls DIR]",
     .details =
         "Makes the data directory when there is none, starts the server and starts it again when it dies,\n"
         "applies settings, certificates and password when their files change, and stops it in order on\n"
         "SIGTERM. /livez, /readyz and /v1/status answer on the HTTP port. Run it as the server's own user.\n"
         "\n"
         "With --member it waits for an order over HTTP (docs/agent.md) and does nothing by itself: it "
         "makes, clones,\n"
         "starts, promotes, rewinds, fences or stops its server as assigned, and never starts a primary "
         "that\n"
         "nobody confirmed.",
     .example =
         "shardherd agent --data /var/lib/postgresql/data/pgdata --password-file /run/secrets/password",
     .local = command_agent,
     .flags = agent_flags},
    {.name = "render",
     .summary = "print the Kubernetes objects of a ShardedDatabase, as a manager applies them",
     .usage = "render FILE [--namespace NAME] [--image IMAGE]",
     .example = "shardherd render shop.yaml | kubectl diff -f -",
     .local = command_render,
     .globals = true,
     .flags = render_flags,
     .words_least = 1,
     .words_most = 1,
     .completes = "file"},
    {.name = "load", .summary = "drive load, and check that nothing was lost", .run = load_main},
    {.name = "demo",
     .summary = "show the main jobs on this machine: a hot shard split, or a primary lost, under load",
     .usage = "demo [--failover] [--keep] [--report FILE] [--no-color] [--directory DIR] [--customers N]",
     .details =
         "Starts a manager and real PostgreSQL servers, fills two shards, lets one of them turn hot, and "
         "watches\n"
         "shardherd split it by itself under full write load. At the end every acknowledged write is "
         "compared with\n"
         "the rows, and everything is taken away again. Takes about a minute.\n"
         "With --failover each shard has three instances: a primary is killed by kill -9, a standby takes "
         "over, the\n"
         "old one comes back, and a switchover makes it the primary again. Takes less than a minute.\n"
         "\n"
         "Exit codes: 0 all of that happened and nothing was lost, 1 not so, 2 wrong usage, "
         "130 interrupted.",
     .example = "shardherd demo --report report.json\nshardherd demo --failover\n"
                "shardherd demo --keep --directory /var/tmp/demo",
     .local = demo_command,
     .flags = demo_flags},
    {.name = "check-config",
     .summary = "check a manager's configuration or a database's specification",
     .usage = "check-config [-c FILE] [--print]\ncheck-config FILE...",
     .details = "Reads the files as a manager would. An error names file, line, column and remedy; the exit "
                "code is 2\n"
                "then. Without a file: the defaults and the environment. A file with \"kind: "
                "ShardedDatabase\" is a\n"
                "specification.",
     .example =
         "shardherd check-config -c config/shardherd.yaml --print\nshardherd check-config config/*.yaml",
     .local = command_check_config,
     .globals = true,
     .flags = check_flags,
     .words_most = ARGS_MAX,
     .completes = "files"},
    {.name = "completion",
     .summary = "print the completion script of a shell",
     .usage = "completion bash|zsh|fish",
     .details = "The script asks this program, and this program asks the manager for names, for half a "
                "second at most.",
     .example = "source <(shardherd completion bash)\nshardherd completion zsh > ~/.zfunc/_shardherd\n"
                "shardherd completion fish > ~/.config/fish/completions/shardherd.fish",
     .local = command_completion,
     .globals = true,
     .words_least = 1,
     .words_most = 1,
     .completes = "bash|zsh|fish"},
    {.name = "version",
     .summary = "print version and commit",
     .usage = "version [-o json]",
     .example = "shardherd version -o json",
     .local = command_version,
     .globals = true},
    {.name = "help",
     .summary = "list the commands, or explain one",
     .usage = "help [COMMAND]",
     .example = "shardherd help split",
     .local = command_help,
     .globals = true,
     .words_most = 1,
     .completes = "commands"},
    {.name = "__complete", .run = command_complete, .hidden = true},
    {.name = NULL},
};
