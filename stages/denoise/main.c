/* main.c - the program stage-denoise. */
#include "stages/denoise/denoise.h"

int main(int argc, char **argv)
{
    return lt_stage_main(&lt_denoise_stage, argc, argv);
}
