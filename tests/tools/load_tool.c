/* links: load */
/* `shardherd load` as a program of its own, for the tests of the checker. */
#include "load/load.h"

int main(int argc, char **argv)
{
    return load_main(argc, argv);
}
