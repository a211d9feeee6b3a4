#include "health/ha_rule.h"

#define NOT "shard <shard> is without its primary <primary> (<why>), not failed over: "

static const struct ha_rule_info rules[] = {
    {HA_F_WELL, "well", "primary <primary> of shard <shard> was heard of <ago> ago (F1)"},
    {HA_F_MAINTENANCE, "maintenance", "shard <shard> is in maintenance: nothing is decided (F2)"},
    {HA_F_ALONE, "alone",
     NOT "<alone> went on without a standby, so no other instance is known to have what it acknowledged; "
         "bring it back, or fail over with --allow-data-loss (F3)"},
    {HA_F_UNDER_WAY, "under-way", "shard <shard> is being failed over under term <term> already (F4)"},
    {HA_F_SUSPECT, "suspect",
     "primary <primary> of shard <shard> was last heard of <ago> ago; <limit> are waited for (F5)"},
    {HA_F_RESTARTING, "restarting",
     "the server of primary <primary> of shard <shard> ended <ago> ago; its agent has <limit> to bring it "
     "back (F6)"},
    {HA_F_STILL_RECEIVED, "still-received",
     NOT "instance <standby> receives from it, so only we lost sight of it (F7)"},
    {HA_F_UNHEARD, "unheard", NOT "<heard> of the <needed> instances that a quorum needs are heard (F8)"},
    {HA_F_NOBODY, "nobody", NOT "none of the instances that are heard may be promoted (F9)"},
    {HA_F_NOT_RETURNED, "not-returned",
     "fail over shard <shard>: the server of its primary <primary> ended <ago> ago and did not return (F10)"},
    {HA_F_LOST, "lost",
     "fail over shard <shard>: nobody has reached its primary <primary> for <ago>, neither we nor its "
     "standbys (F11)"},
    {HA_F_GONE, "gone",
     "fail over shard <shard>: its primary <primary> is not there any more (<why>) and its standbys have "
     "lost it (F12)"},
    {HA_F_QUORUM_MISSING, "quorum-missing",
     "nobody is promoted in shard <shard> yet: of the <members> standbys that helped <primary> acknowledge "
     "under "
     "epoch <epoch>, <heard> confirmed term <term> and <needed> must (F13)"},
    {HA_F_NO_CANDIDATE, "no-candidate",
     "nobody is promoted in shard <shard>: all that confirmed term <term> are excluded, delayed or "
     "nofailover (F14)"},
    {HA_F_PROMOTE, "promote",
     "promote <winner> in shard <shard> under term <term>: it has everything up to <position>, as the most "
     "advanced of "
     "<heard> that confirmed (F15)"},
    {HA_F_FETCH, "fetch",
     "<winner> is to be promoted in shard <shard>, and first fetches from <donor> what it lacks up to "
     "<position> (F16)"},
    {HA_F_DATA_LOSS, "data-loss",
     "promote <winner> in shard <shard> under term <term> without a quorum, because loss was allowed: it has "
     "everything up to <position>, and what was acknowledged beyond that is lost (F17)"},
    {HA_F_TOO_MANY, "too-many",
     "nobody is promoted in shard <shard>: <configs> sync sets wait to be settled; bring back one of the "
     "instances that "
     "are away (F18)"},
    {HA_F_SYNC_KEPT, "sync-kept", "shard <shard> keeps its sync set: <set> (F19)"},
    {HA_F_SYNC_CHANGE, "sync-change",
     "shard <shard> changes its sync set from <set> to <wanted>: recorded first (F20)"},
    {HA_F_SYNC_APPLY, "sync-apply", "primary <primary> of shard <shard> is to acknowledge by <set> (F21)"},
    {HA_F_SYNC_AWAIT, "sync-await",
     "shard <shard> keeps its older sync sets recorded until <set> has everything up to <lsn> (F22)"},
    {HA_F_SYNC_SETTLED, "sync-settled", "shard <shard> needs only <set> from now on (F23)"},
    {HA_F_FOLLOW, "follow", "<instance> follows <primary>: its history is part of the primary's (F24)"},
    {HA_F_REWIND, "rewind",
     "<instance> is rewound to <fork>, where its history left that of <primary>, and then follows (F25)"},
    {HA_F_CLONE, "clone", "<instance> is made anew from <primary>: <why> (F26)"},
    {HA_F_FOREIGN, "foreign",
     "<instance> is left alone: its data are of another system than those of <primary>; remove them by hand "
     "if they "
     "are not wanted (F27)"},
    {HA_F_UNFOLLOWED, "unfollowed",
     "commits of shard <shard> wait: <streaming> of the <needed> standbys that each waits for stream from "
     "its "
     "primary <primary>, which is there, so nobody is promoted; <missing> (F28)"},
    {HA_F_CASCADE, "cascade", "<instance> follows <upstream>, as it was asked to (F29)"},
    {HA_F_DIRECT, "direct",
     "<instance> follows the primary <primary> itself until it can follow <upstream>: <why> (F30)"},
};

_Static_assert(sizeof rules / sizeof *rules == HA_F_COUNT - 1, "each rule has its line");

const struct ha_rule_info *ha_rule_info(int number)
{
    return number >= 1 && number < HA_F_COUNT ? &rules[number - 1] : NULL;
}

const char *ha_rule_name(int number)
{
    const struct ha_rule_info *info = ha_rule_info(number);
    return info != NULL ? info->name : "unknown";
}

void ha_rule_render(int number, const struct words *words, char out[HA_SENTENCE_SIZE])
{
    const struct ha_rule_info *info = ha_rule_info(number);
    words_render(info != NULL ? info->sentence : "", words, out, HA_SENTENCE_SIZE);
}
