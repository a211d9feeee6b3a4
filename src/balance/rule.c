#include "balance/rule.h"

#define HOT "shard <shard> carries <load>, above <threshold><compare> for <time>: "
#define NOT "shard <shard> is hot, not split because "

static const struct balance_rule_info rules[] = {
    {BALANCE_R_SPLIT, "split", HOT "split at <split>, projected <kept> and <moved> (R1)"},
    {BALANCE_R_EVEN_LOAD, "even-load",
     "shard <shard> carries <load>, above <threshold>, not split because R2: that is only <ratio> x the mean "
     "of the other shards, and <relative> x is needed"},
    {BALANCE_R_MISSING_SAMPLE, "missing-sample",
     "shard <shard> was hot, not split because R3: a sample is missing, the row of <window> starts again"},
    {BALANCE_R_SWITCHED_OFF, "switched-off", NOT "R4: splitting is off for database <database>"},
    {BALANCE_R_OPERATION_RUNS, "operation-runs", NOT "R5: operation <operation> runs on it"},
    {BALANCE_R_COOL_DOWN, "cool-down",
     NOT "R6: its last change was <ago> ago and the cool-down is <cooldown>"},
    {BALANCE_R_POPULAR_KEY, "popular-key", NOT "R7: one key carries <share> of its <what>"},
    {BALANCE_R_ISOLATE, "isolate",
     "one key (hash <split>) carries <share> of shard <shard>: isolating it as the range <range> would leave "
     "<kept> beside its <moved> (R8)"},
    {BALANCE_R_MOVING_LOAD, "moving-load", NOT "R9: its load moves, <why>"},
    {BALANCE_R_UNBALANCED, "unbalanced",
     NOT "R10: the best split point leaves <stay_share> and <move_share> of its load, worse than 25:75"},
    {BALANCE_R_MAX_SHARDS, "max-shards", NOT "R11: database <database> has <shards> shards of at most <max>"},
    {BALANCE_R_CAPACITY, "capacity", NOT "R12: there is no room for another shard, <why>"},
    {BALANCE_R_STILL_HOT, "still-hot",
     NOT "R13: projected <kept> and <moved> are not both below <threshold>"},
    {BALANCE_R_LOAD_FELL, "load-fell",
     "shard <shard> was hot, not split because R14: its load fell to <load> while it was sampled"},
    {BALANCE_R_ROW_MEDIAN, "row-median",
     HOT "split at <split>, the median of <count> sampled rows because <why>, projected <kept> and <moved> "
         "(R15)"},
    {BALANCE_R_NO_SPLIT_POINT, "no-split-point", NOT "R16: no split point was found, <why>"},
    {BALANCE_R_REBALANCE, "rebalance",
     HOT "move <range> to shard <target><basis>, projected <kept> here and <received> there (R17)"},
    {BALANCE_R_MERGE, "merge",
     "shards <shard> and <target> together stayed at or below <load>, under 0.5 x <threshold>, for <time>: "
     "merge <shard> into <target> (R18)"},
    {BALANCE_R_MERGE_HELD, "merge-held",
     "shards <shard> and <target> have been cool for <time>, not merged because R19: <why>"},
    {BALANCE_R_LISTEN, "listen",
     "shard <shard> has been above <threshold><compare> for <time>: look for its split point <how> (R20)"},
    {BALANCE_R_OPERATION_LIMIT, "operation-limit",
     NOT "R21: <running> moves run already and at most <max> may"},
};

_Static_assert(sizeof rules / sizeof *rules == BALANCE_R_COUNT - 1, "each rule has its line");

const struct balance_rule_info *balance_rule_info(int number)
{
    return number >= 1 && number < BALANCE_R_COUNT ? &rules[number - 1] : NULL;
}

const char *balance_rule_name(int number)
{
    const struct balance_rule_info *info = balance_rule_info(number);
    return info != NULL ? info->name : "unknown";
}

void balance_rule_render(int number, const struct words *words, char out[BALANCE_SENTENCE_SIZE])
{
    const struct balance_rule_info *info = balance_rule_info(number);
    words_render(info != NULL ? info->sentence : "", words, out, BALANCE_SENTENCE_SIZE);
}
