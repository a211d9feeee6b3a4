/* shardherd: one program, see cli.h. */
#include "base/mem.h"
#include "cli/cli.h"

int main(int argc, char **argv)
{
    mem_share_heap();
    return cli_main(argc, argv);
}
