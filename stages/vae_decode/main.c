/* main.c - the program stage-vae_decode. */
#include "stages/vae_decode/vae_decode.h"

int main(int argc, char **argv)
{
    return lt_stage_main(&lt_vae_decode_stage, argc, argv);
}
