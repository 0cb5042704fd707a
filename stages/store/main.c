/* main.c - the program stage-store. */
#include "stages/store/store.h"

int main(int argc, char **argv)
{
    return lt_stage_main(&lt_store_stage, argc, argv);
}
