/* loop.c - the I/O thread: waits for sockets, the control channel, the main thread and the clock. */
#include "stages/runtime/runtime.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { BEAT_NS = 1000000000, LINGER_MS = 500 };

/* What each entry of the poll list is. */
typedef struct watched {
    enum { CONTROL, WAKE, ZAP, ROUTER, DEALER, MONITOR } what;
    int port;
    uint32_t replica;
} watched;

typedef struct poll_list {
    zmq_pollitem_t *items;
    watched *watched;
    int n;
} poll_list;

static void watch(poll_list *list, void *socket, int fd, watched what)
{
    list->items[list->n] = (zmq_pollitem_t){.socket = socket, .fd = fd, .events = ZMQ_POLLIN};
    list->watched[list->n++] = what;
}

static void gather(rt *rt, poll_list *list)
{
    list->n = 0;
    watch(list, NULL, rt->wake_fd, (watched){.what = WAKE});
    if (rt->has_orchestrator) watch(list, NULL, STDIN_FILENO, (watched){.what = CONTROL});
    if (rt->zap) watch(list, rt->zap, 0, (watched){.what = ZAP});
    if (rt->output.socket) watch(list, rt->output.socket, 0, (watched){.what = ROUTER});
    for (int port = 0; port < rt->stage->n_inputs; port++)
        for (uint32_t r = 0; r < rt->inputs[port].n_producers; r++) {
            const rt_producer *producer = &rt->inputs[port].producers[r];
            if (producer->socket) watch(list, producer->socket, 0, (watched){DEALER, port, r});
            if (producer->monitor) watch(list, producer->monitor, 0, (watched){MONITOR, port, r});
        }
}

static void attend(rt *rt, const watched *watched)
{
    uint64_t count;
    switch (watched->what) {
    case CONTROL: rt_control_read(rt); break;
    case WAKE:
        if (read(rt->wake_fd, &count, sizeof count) < 0) return;
        break;
    case ZAP: rt_zap_answer(rt); break;
    case ROUTER: rt_output_receive(rt); break;
    case DEALER: rt_input_receive(rt, watched->port, watched->replica); break;
    case MONITOR:
        if (rt_socket_broke(&rt->inputs[watched->port].producers[watched->replica]))
            rt_input_reconnect(rt, watched->port, watched->replica);
        break;
    }
}

/* Milliseconds until the clock has something to say. */
static long patience(const rt *rt)
{
    int64_t next = rt->next_beat_ns;
    if (rt->quit_deadline_ns) next = LT_MIN(next, rt->quit_deadline_ns);
    return (long)LT_MAX((next - lt_now_ns()) / 1000000 + 1, 0);
}

static void look_at_the_clock(rt *rt)
{
    int64_t now = lt_now_ns();
    if (rt->quit_deadline_ns && now >= rt->quit_deadline_ns) {
        lt_log(LT_LOG_WARN, "ending in the middle of a unit");
        _exit(rt->exit_code);
    }
    if (now < rt->next_beat_ns) return;
    rt->next_beat_ns = now + BEAT_NS;
    rt_report_progress(rt);
}

/* Events of one turn are attended in order; a socket that an earlier one closed is passed over. */
static bool is_current(rt *rt, const zmq_pollitem_t *item, const watched *watched)
{
    if (watched->what != DEALER && watched->what != MONITOR) return true;
    const rt_producer *producer = &rt->inputs[watched->port].producers[watched->replica];
    return item->socket == (watched->what == DEALER ? producer->socket : producer->monitor);
}

static void turn(rt *rt, poll_list *list)
{
    gather(rt, list);
    if (zmq_poll(list->items, list->n, patience(rt)) > 0)
        for (int i = 0; i < list->n; i++)
            if (list->items[i].revents && is_current(rt, &list->items[i], &list->watched[i]))
                attend(rt, &list->watched[i]);
    look_at_the_clock(rt);
    rt_pump(rt);
}

static bool make_list(const rt *rt, poll_list *list)
{
    size_t n = 8;
    for (int port = 0; port < rt->stage->n_inputs; port++) n += 2 * (size_t)rt->inputs[port].n_producers;
    list->items = calloc(n, sizeof *list->items);
    list->watched = calloc(n, sizeof *list->watched);
    return list->items && list->watched;
}

/* What a sink still says (that a clip is safe) is sent; nobody waits for what a producer has left. */
static void close_sockets(rt *rt)
{
    for (int port = 0; port < rt->stage->n_inputs; port++)
        for (uint32_t r = 0; r < rt->inputs[port].n_producers; r++)
            rt_socket_close(&rt->inputs[port].producers[r], rt_is_sink(rt) ? LINGER_MS : 0);
    if (rt->output.socket) zmq_close(rt->output.socket);
    if (rt->zap) zmq_close(rt->zap);
    rt->output.socket = rt->zap = NULL;
}

void *rt_loop(void *data)
{
    rt *rt = data;
    poll_list list = {0};
    if (!make_list(rt, &list)) {
        lt_log(LT_LOG_ERROR, "no memory for a list of sockets");
        _exit(lt_exit_code(LT_E_NO_MEMORY));
    }
    rt->next_beat_ns = lt_now_ns() + BEAT_NS;
    rt_control_read(rt); /* what came together with Boot */
    while (!rt->has_quit) turn(rt, &list);
    close_sockets(rt);
    free(list.items);
    free(list.watched);
    return NULL;
}
