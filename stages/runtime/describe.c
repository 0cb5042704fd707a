/* describe.c - what a stage says of itself: to people (--help) and to the orchestrator (--describe). */
#include "stages/runtime/runtime.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const Lt__Wire__PortKind port_kinds[] = {
    LT__WIRE__PORT_KIND__PORT_FRAMES, LT__WIRE__PORT_KIND__PORT_LATENTS, LT__WIRE__PORT_KIND__PORT_WINDOWS,
    LT__WIRE__PORT_KIND__PORT_TEXT};

/* ---- --help --------------------------------------------------------------------------------------------------------- */

static void print_ports(const char *title, const lt_port *ports, int n)
{
    if (n) printf("\n%s:\n", title);
    for (int i = 0; i < n; i++) {
        printf("  %-22s", ports[i].name);
        for (size_t k = 0, many = 0; k < LT_COUNT(port_kinds); k++)
            if (ports[i].kinds & 1u << port_kinds[k])
                printf("%s%s", many++ ? " or " : "", lt_port_kind_name(port_kinds[k]));
        if (ports[i].kinds & LT_PORT_OPTIONAL) printf(" (may be left out)");
        printf("%s%s\n", ports[i].help ? "; " : "", ports[i].help ? ports[i].help : "");
    }
}

static void print_option(const lt_option *option)
{
    printf("  %-22s%s", option->name, option->help ? option->help : "");
    printf("\n  %-22s%s", "", option->choices ? option->choices : lt_option_type_name(option->type));
    if (option->min || option->max) printf(" from %.15g to %.15g", option->min, option->max);
    if (option->unit) printf(", %s", option->unit);
    if (option->fallback)
        printf("; default: %s\n", *option->fallback ? option->fallback : "none");
    else
        printf("; required\n");
}

int rt_help(const lt_stage *stage)
{
    printf("stage-%s: %s\n\n", stage->kind, stage->help);
    printf("A stage is started by `orchestrator run GRAPH`, in which it is named as kind = \"%s\".\n",
           stage->kind);
    printf("By hand it answers --help, --version, --describe (JSON) and --plan (messages).\n");
    print_ports("Inputs", stage->inputs, stage->n_inputs);
    print_ports("Outputs", stage->outputs, stage->n_outputs);
    if (stage->n_options) printf("\nOptions, in a graph file as NAME = VALUE:\n");
    for (int i = 0; i < stage->n_options; i++) print_option(&stage->options[i]);
    return fflush(stdout) ? lt_exit_code(LT_E_IO) : LT_EXIT_DONE;
}

/* ---- --describe ------------------------------------------------------------------------------------------------------ */

static json_t *text(const char *value)
{
    return value ? json_string(value) : json_null();
}

static json_t *describe_ports(const lt_port *ports, int n)
{
    json_t *array = json_array();
    for (int i = 0; i < n; i++) {
        json_t *kinds = json_array();
        for (size_t k = 0; k < LT_COUNT(port_kinds); k++)
            if (ports[i].kinds & 1u << port_kinds[k])
                json_array_append_new(kinds, json_string(lt_port_kind_name(port_kinds[k])));
        json_t *port = json_object();
        json_object_set_new(port, "name", text(ports[i].name));
        json_object_set_new(port, "kinds", kinds);
        json_object_set_new(port, "optional", json_boolean(ports[i].kinds & LT_PORT_OPTIONAL));
        json_object_set_new(port, "help", text(ports[i].help));
        json_array_append_new(array, port);
    }
    return array;
}

static json_t *describe_choices(const char *choices)
{
    json_t *array = json_array();
    while (*choices) {
        size_t n = strcspn(choices, "|");
        json_array_append_new(array, json_stringn(choices, n));
        choices += n + (choices[n] == '|');
    }
    return array;
}

static json_t *describe_option(const lt_option *option)
{
    json_t *json = json_object();
    json_object_set_new(json, "name", text(option->name));
    json_object_set_new(json, "type", text(lt_option_type_name(option->type)));
    json_object_set_new(json, "required", json_boolean(!option->fallback));
    json_object_set_new(json, "default", text(option->fallback));
    if (option->min || option->max) {
        json_object_set_new(json, "min", json_real(option->min));
        json_object_set_new(json, "max", json_real(option->max));
    }
    if (option->choices) json_object_set_new(json, "choices", describe_choices(option->choices));
    json_object_set_new(json, "unit", text(option->unit));
    json_object_set_new(json, "help", text(option->help));
    json_object_set_new(json, "cosmetic", json_boolean(option->cosmetic));
    return json;
}

int rt_describe(const lt_stage *stage)
{
    json_t *root = json_object(), *options = json_array();
    for (int i = 0; i < stage->n_options; i++)
        json_array_append_new(options, describe_option(&stage->options[i]));
    json_object_set_new(root, "kind", text(stage->kind));
    json_object_set_new(root, "version", text(LT_VERSION));
    json_object_set_new(root, "help", text(stage->help));
    json_object_set_new(root, "replicable", json_boolean(stage->replicable));
    json_object_set_new(root, "checks", json_boolean(stage->check != NULL));
    json_object_set_new(root, "inputs", describe_ports(stage->inputs, stage->n_inputs));
    json_object_set_new(root, "outputs", describe_ports(stage->outputs, stage->n_outputs));
    json_object_set_new(root, "options", options);
    char *dump = json_dumps(root, JSON_INDENT(2));
    json_decref(root);
    bool written = dump && printf("%s\n", dump) > 0 && !fflush(stdout);
    free(dump);
    return written ? LT_EXIT_DONE : lt_exit_code(LT_E_IO);
}
