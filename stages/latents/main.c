/* main.c - the program stage-latents. */
#include "stages/latents/latents.h"

int main(int argc, char **argv)
{
    return lt_stage_main(&lt_latents_stage, argc, argv);
}
