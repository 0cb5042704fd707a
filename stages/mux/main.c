/* main.c - the program stage-mux. */
#include "stages/mux/mux.h"

int main(int argc, char **argv)
{
    return lt_stage_main(&lt_mux_stage, argc, argv);
}
