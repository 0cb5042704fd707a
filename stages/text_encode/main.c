/* main.c - the program stage-text_encode. */
#include "stages/text_encode/text_encode.h"

int main(int argc, char **argv)
{
    return lt_stage_main(&lt_text_encode_stage, argc, argv);
}
