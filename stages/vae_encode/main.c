/* main.c - the program stage-vae_encode. */
#include "stages/vae_encode/vae_encode.h"

int main(int argc, char **argv)
{
    return lt_stage_main(&lt_vae_encode_stage, argc, argv);
}
