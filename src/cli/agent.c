/* shardherd agent: lives beside one PostgreSQL. */
#include "agent/agent.h"
#include "agent/member.h"

#include "base/text.h"
#include "cli/command.h"

static const char *value_or(const struct args *args, const char *name, const char *otherwise)
{
    const char *value = args_value(args, name);
    return value != NULL ? value : otherwise;
}

static bool port_of(const struct args *args, const char *name, int otherwise, int *ret)
{
    const char *text = args_value(args, name);
    int64_t number = otherwise;
    if (text != NULL && (!text_to_int64(text, &number) || number < 0 || number > 65535))
        return false;
    *ret = (int)number;
    return true;
}

int command_agent(const struct args *args)
{
    struct err err = {0};
    struct agent_options o = {
        .env = env_system(),
        .data = args_value(args, "data"),
        .wal = args_value(args, "wal"),
        .bin = args_value(args, "bin"),
        .run = value_or(args, "run", "/tmp"),
        .settings = args_value(args, "settings"),
        .password_file = args_value(args, "password-file"),
        .tls = args_value(args, "tls"),
        .client_certificates = args_has(args, "client-certificates"),
        .listen = value_or(args, "listen", "*"),
        .member = args_value(args, "member"),
        .token_file = args_value(args, "token-file"),
        .http_tls = args_value(args, "http-tls"),
        .stop_ns = 60 * ENV_NS_PER_S,
    };
    const char *stop = args_value(args, "stop-timeout");
    if (o.data == NULL || o.password_file == NULL)
        return session_fail(NULL, CLI_USAGE, "--data and --password-file are needed");
    if (!port_of(args, "port", 5432, &o.port) || !port_of(args, "http-port", 8008, &o.http_port))
        return session_fail(NULL, CLI_USAGE, "a port is a number up to 65535");
    if (stop != NULL && !text_to_duration(stop, &o.stop_ns))
        return session_fail(NULL, CLI_USAGE, "--stop-timeout: \"%s\" is no duration, such as 60s", stop);
    if ((o.member == NULL) != (o.token_file == NULL))
        return session_fail(NULL, CLI_USAGE, "--member and --token-file go together");
    if (o.member != NULL && !text_is_name(o.member))
        return session_fail(NULL, CLI_USAGE, "--member: \"%s\" is no name such as shop-s1-0", o.member);
    if (o.http_tls != NULL && o.member == NULL)
        return session_fail(NULL, CLI_USAGE, "--http-tls is of a --member");
    o.http_address = value_or(args, "http-address", o.member != NULL ? "127.0.0.1" : "0.0.0.0");
    if ((o.member != NULL ? member_run(&o, &err) : agent_run(&o, &err)) == 0)
        return CLI_OK;
    return session_fail(NULL, err.code == ERRC_INVALID ? CLI_USAGE : CLI_FAILED, "%s (%s)", err.message,
                        err_code_name(err.code));
}
