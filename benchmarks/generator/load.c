/* A small HTTP/1.1 load generator: keep-alive connections, one request in flight on each.
 *
 *   load HOST PORT REQUESTS --duration S [--connections N] [--threads T] [--rate R --max-connections M]
 *        [--deadline-ms D] [--drain-s S] [--tick-us U] [--seed N]
 *
 * REQUESTS holds complete requests, each after its size as 4 bytes, least significant first; they are
 * sent in rotation. Without --rate the loop is closed: every connection sends its next request when it
 * has its answer. With --rate it is open: requests are due at the points of a Poisson process whatever
 * the server does, a connection is opened when no idle one is left, and a request that finds
 * --max-connections of them busy is counted as unsent, which is a miss. Latencies run from the moment a
 * request was due, so a generator or server that falls behind cannot hide it.
 *
 * One JSON object on standard output. Exit status 2: used wrongly; 1: nothing could be measured.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_S 1000000000LL
#define SUB_BITS 8 /* 256 buckets an octave: a latency is known to 0.4 percent */
#define SUB_COUNT (1 << SUB_BITS)
#define OCTAVES 34 /* up to 2^41 ns, more than half an hour */
#define BUCKETS ((OCTAVES + 1) * SUB_COUNT)
#define EVENTS_PER_WAIT 256
#define MAX_STATUS 600
#define SLICE_NS (100 * 1000 * 1000LL) /* of the timeline */
#define MAX_SLICES 1200
#define FIRST_BUFFER_BYTES 4096
#define MAX_ANSWER_BYTES (64u << 20)
#define SAMPLE_BYTES 400
#define CONNECT_LIMIT_S 10
#define RETRY_NS (10 * 1000 * 1000LL)
#define COARSE_TICK_NS (500 * 1000LL) /* from here on answers wait for the tick as well */

struct histogram {
    uint64_t bucket[BUCKETS];
    uint64_t count, sum_ns, max_ns;
};

struct request {
    const char *bytes;
    size_t size;
};

struct options {
    struct sockaddr_storage address;
    socklen_t address_size;
    struct request *requests;
    size_t n_requests;
    int threads, connections, max_connections;
    double duration_s, rate_per_s, deadline_s, drain_s;
    int64_t tick_ns;
    uint64_t seed;
};

enum state { CLOSED, CONNECTING, IDLE, SENDING, RECEIVING };

struct connection {
    int fd;
    enum state state;
    bool wants_write;
    const struct request *request; /* set while one is to be sent or answered */
    size_t sent;
    int64_t due_ns;
    char *buffer;
    size_t filled, capacity;
    size_t head_size; /* 0 until the answer's head is complete */
    size_t body_size;
    bool chunked, closes;
    int status;
    struct connection *previous, *next; /* in the list of idle or of closed ones */
};

struct list {
    struct connection *first, *last;
};

struct worker {
    const struct options *options;
    pthread_t thread;
    pthread_barrier_t *barrier;
    int64_t *start_ns; /* shared: set by one thread between two barriers */
    bool leads, open_loop;
    int epoll;
    int n_connections, max_connections, initial_connections;
    struct connection *connections;
    struct list idle, closed;
    size_t next_request;
    double rate_per_s;
    uint64_t random;
    int64_t end_ns, retry_at_ns;
    int busy;
    uint64_t opened, failed_connects, sent, unsent, broken, unanswered, malformed;
    uint64_t answered, ok, in_window, ok_in_window, within_deadline, received_bytes;
    uint64_t statuses[MAX_STATUS];
    uint64_t due_in[MAX_SLICES], good_in[MAX_SLICES]; /* by when they were due */
    struct histogram ok_latency, other_latency, send_lag;
    char sample[SAMPLE_BYTES + 1]; /* the first answer that was not 2xx, or not HTTP */
};

static void fail(int status, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("load: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(status);
}

static void *allocate(size_t count, size_t size) {
    void *memory = calloc(count, size);
    if (memory == NULL) fail(1, "out of memory");
    return memory;
}

static int64_t now_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * NS_PER_S + time.tv_nsec;
}

/* ---- latency histogram: linear inside an octave, octaves double ---- */

static size_t bucket_of(uint64_t value) {
    if (value < SUB_COUNT) return value;
    int shift = 63 - __builtin_clzll(value) - SUB_BITS;
    if (shift >= OCTAVES) return BUCKETS - 1;
    return (size_t)shift * SUB_COUNT + (value >> shift);
}

static double middle_of(size_t bucket) {
    if (bucket < SUB_COUNT) return (double)bucket;
    size_t shift = bucket / SUB_COUNT - 1;
    uint64_t low = (uint64_t)(bucket - shift * SUB_COUNT) << shift;
    return (double)low + (double)((1ULL << shift) - 1) / 2;
}

static void observe(struct histogram *histogram, int64_t value_ns) {
    uint64_t value = value_ns < 0 ? 0 : (uint64_t)value_ns;
    histogram->bucket[bucket_of(value)]++;
    histogram->count++;
    histogram->sum_ns += value;
    if (value > histogram->max_ns) histogram->max_ns = value;
}

static void merge(struct histogram *into, const struct histogram *from) {
    for (size_t i = 0; i < BUCKETS; i++) into->bucket[i] += from->bucket[i];
    into->count += from->count;
    into->sum_ns += from->sum_ns;
    if (from->max_ns > into->max_ns) into->max_ns = from->max_ns;
}

static double quantile_us(const struct histogram *histogram, double share) {
    uint64_t wanted = (uint64_t)ceil(share * (double)histogram->count), seen = 0;
    if (wanted == 0) wanted = 1;
    for (size_t i = 0; i < BUCKETS; i++) {
        seen += histogram->bucket[i];
        if (seen >= wanted) return fmin(middle_of(i), (double)histogram->max_ns) / 1e3;
    }
    return (double)histogram->max_ns / 1e3;
}

/* ---- lists of connections ---- */

static void append(struct list *list, struct connection *connection) {
    connection->previous = list->last;
    connection->next = NULL;
    if (list->last) list->last->next = connection;
    else list->first = connection;
    list->last = connection;
}

static void detach(struct list *list, struct connection *connection) {
    if (connection->previous) connection->previous->next = connection->next;
    else list->first = connection->next;
    if (connection->next) connection->next->previous = connection->previous;
    else list->last = connection->previous;
    connection->previous = connection->next = NULL;
}

/* ---- one connection ---- */

static void watch(struct worker *worker, struct connection *connection, int operation, bool write) {
    struct epoll_event event = {.events = EPOLLIN | (write ? (uint32_t)EPOLLOUT : 0), .data.ptr = connection};
    if (epoll_ctl(worker->epoll, operation, connection->fd, &event) < 0) fail(1, "epoll_ctl: %s", strerror(errno));
    connection->wants_write = write;
}

static void give_up(struct worker *worker, struct connection *connection) {
    if (connection->state == IDLE) detach(&worker->idle, connection);
    if (connection->fd >= 0) close(connection->fd);
    if (connection->request) worker->busy--;
    connection->fd = -1;
    connection->request = NULL;
    connection->state = CLOSED;
    append(&worker->closed, connection);
}

/* Take a closed connection and dial. Its request, if it has one, goes out when the server accepts. */
static void dial(struct worker *worker, struct connection *connection) {
    detach(&worker->closed, connection);
    connection->state = CONNECTING;
    connection->fd = socket(worker->options->address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (connection->fd < 0) fail(1, "socket: %s", strerror(errno));
    int on = 1;
    setsockopt(connection->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    int result = connect(connection->fd, (const struct sockaddr *)&worker->options->address,
                         worker->options->address_size);
    if (result < 0 && errno != EINPROGRESS) {
        worker->failed_connects++;
        if (connection->request) worker->broken++;
        worker->retry_at_ns = now_ns() + RETRY_NS;
        give_up(worker, connection);
        return;
    }
    watch(worker, connection, EPOLL_CTL_ADD, true);
}

static void broke(struct worker *worker, struct connection *connection) {
    if (connection->request) worker->broken++;
    give_up(worker, connection);
}

static void flush(struct worker *worker, struct connection *connection) {
    const struct request *request = connection->request;
    while (connection->sent < request->size) {
        ssize_t n = send(connection->fd, request->bytes + connection->sent, request->size - connection->sent,
                         MSG_NOSIGNAL);
        if (n < 0) {
            if (errno == EINTR) continue;
            if (errno == EAGAIN) {
                if (!connection->wants_write) watch(worker, connection, EPOLL_CTL_MOD, true);
                return;
            }
            broke(worker, connection);
            return;
        }
        connection->sent += (size_t)n;
    }
    if (connection->wants_write) watch(worker, connection, EPOLL_CTL_MOD, false);
    connection->state = RECEIVING;
}

static void start_sending(struct worker *worker, struct connection *connection) {
    connection->state = SENDING;
    connection->sent = connection->filled = connection->head_size = connection->body_size = 0;
    connection->chunked = connection->closes = false;
    worker->sent++;
    observe(&worker->send_lag, now_ns() - connection->due_ns);
    flush(worker, connection);
}

static void assign(struct worker *worker, struct connection *connection, int64_t due_ns) {
    connection->request = &worker->options->requests[worker->next_request];
    worker->next_request = (worker->next_request + 1) % worker->options->n_requests;
    connection->due_ns = due_ns;
    worker->busy++;
}

/* ---- answers ---- */

static bool has_token(const char *line, const char *end, const char *token) {
    size_t size = strlen(token);
    for (; line + size <= end; line++)
        if (strncasecmp(line, token, size) == 0) return true;
    return false;
}

static bool parse_head(struct connection *connection) {
    const char *head = connection->buffer, *end = head + connection->head_size - 2;
    if (connection->head_size < 16 || memcmp(head, "HTTP/1.", 7) != 0) return false;
    connection->status = atoi(head + 9);
    if (connection->status < 100 || connection->status >= MAX_STATUS) return false;
    connection->closes = head[7] == '0';
    const char *line = memchr(head, '\n', connection->head_size);
    while (line && ++line < end) {
        const char *stop = memchr(line, '\r', (size_t)(end + 1 - line));
        if (stop == NULL) return false;
        if (strncasecmp(line, "content-length:", 15) == 0) {
            connection->body_size = strtoull(line + 15, NULL, 10);
        } else if (strncasecmp(line, "transfer-encoding:", 18) == 0) {
            connection->chunked = has_token(line + 18, stop, "chunked");
        } else if (strncasecmp(line, "connection:", 11) == 0) {
            connection->closes = has_token(line + 11, stop, "close");
        }
        line = memchr(stop, '\n', (size_t)(end + 2 - stop));
    }
    return connection->body_size <= MAX_ANSWER_BYTES;
}

/* Return the size of a chunked body with its framing, 0 while it is incomplete, -1 when it is malformed. */
static ssize_t chunked_size(const char *body, size_t available) {
    size_t at = 0;
    for (;;) {
        const char *line_end = memchr(body + at, '\n', available - at);
        if (line_end == NULL) return 0;
        char *stop;
        unsigned long long size = strtoull(body + at, &stop, 16);
        if (stop == body + at || size > MAX_ANSWER_BYTES) return -1;
        size_t next = (size_t)(line_end - body) + 1 + size + 2;
        if (next > available) return 0;
        if (size == 0) return (ssize_t)next; /* servers under test send no trailers */
        at = next;
    }
}

/* Return 1 when a whole answer is in the buffer, 0 when more is to come, -1 when it cannot be understood. */
static int is_complete(struct connection *connection) {
    if (connection->head_size == 0) {
        const char *end = memmem(connection->buffer, connection->filled, "\r\n\r\n", 4);
        if (end == NULL) return 0;
        connection->head_size = (size_t)(end - connection->buffer) + 4;
        if (!parse_head(connection)) return -1;
    }
    size_t body = connection->filled - connection->head_size;
    if (connection->chunked) {
        ssize_t size = chunked_size(connection->buffer + connection->head_size, body);
        return size < 0 ? -1 : size == 0 ? 0 : (size_t)size == body ? 1 : -1;
    }
    return body == connection->body_size ? 1 : body < connection->body_size ? 0 : -1;
}

static void keep_sample(struct worker *worker, const struct connection *connection) {
    if (worker->sample[0] != 0) return;
    size_t size = connection->filled < SAMPLE_BYTES ? connection->filled : SAMPLE_BYTES;
    memcpy(worker->sample, connection->buffer, size);
    worker->sample[size] = 0;
}

static size_t slice_of(const struct worker *worker, int64_t due_ns) {
    int64_t slice = (due_ns - *worker->start_ns) / SLICE_NS;
    return slice < 0 ? 0 : slice >= MAX_SLICES ? MAX_SLICES - 1 : (size_t)slice;
}

static void account(struct worker *worker, struct connection *connection) {
    int64_t now = now_ns(), latency = now - connection->due_ns;
    bool ok = connection->status / 100 == 2, in_window = now <= worker->end_ns;
    worker->answered++;
    worker->statuses[connection->status]++;
    worker->received_bytes += connection->filled;
    worker->in_window += in_window;
    if (ok) {
        worker->ok++;
        worker->ok_in_window += in_window;
        double deadline_s = worker->options->deadline_s;
        if (deadline_s <= 0 || (double)latency <= deadline_s * 1e9) {
            worker->within_deadline++;
            worker->good_in[slice_of(worker, connection->due_ns)]++;
        }
        observe(&worker->ok_latency, latency);
        return;
    }
    observe(&worker->other_latency, latency);
    keep_sample(worker, connection);
}

static void finish(struct worker *worker, struct connection *connection) {
    account(worker, connection);
    connection->request = NULL;
    worker->busy--;
    bool more = !worker->open_loop && now_ns() < worker->end_ns;
    if (connection->closes) {
        give_up(worker, connection);
        if (more) {
            assign(worker, connection, now_ns());
            dial(worker, connection);
        }
    } else if (more) {
        assign(worker, connection, now_ns());
        start_sending(worker, connection);
    } else {
        connection->state = IDLE;
        append(&worker->idle, connection);
    }
}

static void receive(struct worker *worker, struct connection *connection) {
    if (connection->capacity - connection->filled < FIRST_BUFFER_BYTES / 2) {
        connection->capacity = connection->capacity ? connection->capacity * 2 : FIRST_BUFFER_BYTES;
        connection->buffer = realloc(connection->buffer, connection->capacity + 1);
        if (connection->buffer == NULL) fail(1, "out of memory");
    }
    ssize_t n = recv(connection->fd, connection->buffer + connection->filled,
                     connection->capacity - connection->filled, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n <= 0) {
        broke(worker, connection);
        return;
    }
    if (connection->request == NULL) { /* an answer nobody asked for */
        worker->malformed++;
        give_up(worker, connection);
        return;
    }
    connection->filled += (size_t)n;
    connection->buffer[connection->filled] = 0; /* ends what strtoull reads */
    int complete = is_complete(connection);
    if (complete < 0) {
        keep_sample(worker, connection);
        worker->malformed++;
        give_up(worker, connection);
    } else if (complete > 0) {
        /* A server that refuses on headers may answer before it has read all; then nothing more is sent. */
        if (connection->state == SENDING) connection->closes = true;
        finish(worker, connection);
    }
}

static void connected(struct worker *worker, struct connection *connection) {
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(connection->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error != 0) {
        worker->failed_connects++;
        worker->retry_at_ns = now_ns() + RETRY_NS;
        broke(worker, connection);
        return;
    }
    worker->opened++;
    if (connection->request) {
        start_sending(worker, connection);
        return;
    }
    watch(worker, connection, EPOLL_CTL_MOD, false);
    connection->state = IDLE;
    append(&worker->idle, connection);
}

static void handle(struct worker *worker, const struct epoll_event *event) {
    struct connection *connection = event->data.ptr;
    if (connection->fd < 0) return; /* closed earlier in this turn */
    if (connection->state == CONNECTING) {
        connected(worker, connection);
        return;
    }
    if ((event->events & EPOLLOUT) && connection->state == SENDING) flush(worker, connection);
    if (connection->fd >= 0 && (event->events & (EPOLLIN | EPOLLHUP | EPOLLERR))) receive(worker, connection);
}

/* ---- the loop of one thread ---- */

static void wait_events(struct worker *worker, int64_t until_ns) {
    struct epoll_event events[EVENTS_PER_WAIT];
    int64_t left = until_ns - now_ns();
    if (left < 0) left = 0;
    struct timespec timeout = {.tv_sec = left / NS_PER_S, .tv_nsec = left % NS_PER_S};
    static bool coarse = false; /* kernels before 5.11 wait in whole milliseconds only */
    int n = -1;
#ifdef SYS_epoll_pwait2
    if (!coarse) {
        n = (int)syscall(SYS_epoll_pwait2, worker->epoll, events, EVENTS_PER_WAIT, &timeout, NULL, 0);
        if (n < 0 && errno == ENOSYS) coarse = true;
    }
#else
    coarse = true;
#endif
    if (coarse) n = epoll_wait(worker->epoll, events, EVENTS_PER_WAIT, (int)(left / 1000000));
    for (int i = 0; i < n; i++) handle(worker, &events[i]);
}

static double draw_gap_ns(struct worker *worker) {
    uint64_t x = (worker->random += 0x9E3779B97F4A7C15ULL); /* splitmix64, Steele et al., OOPSLA 2014 */
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL;
    x ^= x >> 31;
    double uniform = ((double)(x >> 11) + 0.5) / 9007199254740992.0;
    return -log(uniform) / worker->rate_per_s * 1e9;
}

static void dispatch(struct worker *worker, int64_t due_ns) {
    worker->due_in[slice_of(worker, due_ns)]++;
    struct connection *connection = worker->idle.first; /* the one longest idle: workers share evenly */
    if (connection) {
        detach(&worker->idle, connection);
        assign(worker, connection, due_ns);
        start_sending(worker, connection);
    } else if ((connection = worker->closed.first) && now_ns() >= worker->retry_at_ns) {
        assign(worker, connection, due_ns);
        dial(worker, connection);
    } else {
        worker->unsent++;
    }
}

static void pause_until(int64_t until_ns) {
    int64_t left = until_ns - now_ns();
    if (left <= 0) return;
    struct timespec pause = {.tv_sec = left / NS_PER_S, .tv_nsec = left % NS_PER_S};
    nanosleep(&pause, NULL);
}

static void run_open(struct worker *worker, int64_t start_ns) {
    double due = (double)start_ns + draw_gap_ns(worker);
    while (due < (double)worker->end_ns) {
        int64_t now = now_ns();
        while (due <= (double)now && due < (double)worker->end_ns) {
            dispatch(worker, (int64_t)due);
            due += draw_gap_ns(worker);
        }
        int64_t soonest = now + worker->options->tick_ns;
        if (soonest > worker->end_ns) soonest = worker->end_ns;
        int64_t wake = (int64_t)due > soonest ? (int64_t)due : soonest;
        if (wake > worker->end_ns) wake = worker->end_ns;
        /* Send and receive once a tick, all that is due or has come by then: woken for each answer the
         * generator would take more of the machine than many a server. What comes later than in a tick is
         * waited for as ever: an answer must not lie there until the next request is due. */
        if (worker->options->tick_ns >= COARSE_TICK_NS) pause_until(soonest);
        wait_events(worker, wake);
    }
}

static void run_closed(struct worker *worker) {
    while (worker->idle.first) {
        struct connection *connection = worker->idle.first;
        detach(&worker->idle, connection);
        assign(worker, connection, now_ns());
        start_sending(worker, connection);
    }
    int64_t now;
    while ((now = now_ns()) < worker->end_ns) {
        int64_t wake = worker->end_ns;
        if (worker->closed.first) {
            if (now < worker->retry_at_ns) {
                wake = worker->retry_at_ns;
            } else {
                struct connection *connection = worker->closed.first;
                assign(worker, connection, now);
                dial(worker, connection);
                wake = now;
            }
        }
        wait_events(worker, wake);
    }
}

static void connect_all(struct worker *worker) {
    int64_t limit = now_ns() + CONNECT_LIMIT_S * NS_PER_S;
    for (int i = 0; i < worker->initial_connections; i++) dial(worker, &worker->connections[i]);
    while (worker->opened < (uint64_t)worker->initial_connections) {
        if (worker->failed_connects) fail(1, "the server refuses connections");
        if (now_ns() > limit) fail(1, "the server does not accept connections");
        wait_events(worker, limit);
    }
}

static void *run_worker(void *argument) {
    struct worker *worker = argument;
    prctl(PR_SET_TIMERSLACK, 1UL);
    worker->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (worker->epoll < 0) fail(1, "epoll_create1: %s", strerror(errno));
    for (int i = 0; i < worker->max_connections; i++) {
        worker->connections[i].fd = -1;
        append(&worker->closed, &worker->connections[i]);
    }
    connect_all(worker);
    pthread_barrier_wait(worker->barrier);
    if (worker->leads) *worker->start_ns = now_ns();
    pthread_barrier_wait(worker->barrier);
    worker->end_ns = *worker->start_ns + (int64_t)(worker->options->duration_s * 1e9);
    if (worker->open_loop) run_open(worker, *worker->start_ns);
    else run_closed(worker);
    int64_t limit = worker->end_ns + (int64_t)(worker->options->drain_s * 1e9);
    while (worker->busy > 0 && now_ns() < limit) wait_events(worker, limit);
    worker->unanswered = (uint64_t)worker->busy;
    return NULL;
}

/* ---- the result ---- */

static void add(struct worker *into, const struct worker *from) {
    into->opened += from->opened;
    into->failed_connects += from->failed_connects;
    into->sent += from->sent;
    into->unsent += from->unsent;
    into->broken += from->broken;
    into->malformed += from->malformed;
    into->unanswered += from->unanswered;
    into->answered += from->answered;
    into->ok += from->ok;
    into->in_window += from->in_window;
    into->ok_in_window += from->ok_in_window;
    into->within_deadline += from->within_deadline;
    into->received_bytes += from->received_bytes;
    for (int i = 0; i < MAX_STATUS; i++) into->statuses[i] += from->statuses[i];
    for (int i = 0; i < MAX_SLICES; i++) {
        into->due_in[i] += from->due_in[i];
        into->good_in[i] += from->good_in[i];
    }
    merge(&into->ok_latency, &from->ok_latency);
    merge(&into->other_latency, &from->other_latency);
    merge(&into->send_lag, &from->send_lag);
    if (into->sample[0] == 0) memcpy(into->sample, from->sample, sizeof into->sample);
}

static void print_histogram(const char *name, const struct histogram *histogram) {
    double mean = histogram->count ? (double)histogram->sum_ns / (double)histogram->count / 1e3 : 0;
    printf("\"%s\":{\"count\":%" PRIu64 ",\"mean\":%.2f", name, histogram->count, mean);
    static const struct { const char *name; double share; } shares[] = {
        {"p50", 0.5}, {"p90", 0.9}, {"p95", 0.95}, {"p99", 0.99}, {"p999", 0.999}};
    for (size_t i = 0; i < sizeof shares / sizeof *shares; i++)
        printf(",\"%s\":%.2f", shares[i].name, histogram->count ? quantile_us(histogram, shares[i].share) : 0.0);
    printf(",\"max\":%.2f},", (double)histogram->max_ns / 1e3);
}

static void print_text(const char *text) {
    putchar('"');
    for (const unsigned char *at = (const unsigned char *)text; *at; at++) {
        if (*at == '"' || *at == '\\') printf("\\%c", *at);
        else if (*at < 0x20 || *at >= 0x7f) printf("\\u%04x", *at);
        else putchar(*at);
    }
    putchar('"');
}

static void print_result(const struct options *options, const struct worker *total) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    double user_s = (double)usage.ru_utime.tv_sec + (double)usage.ru_utime.tv_usec / 1e6;
    double system_s = (double)usage.ru_stime.tv_sec + (double)usage.ru_stime.tv_usec / 1e6;
    printf("{\"mode\":\"%s\",\"threads\":%d,\"connections\":%d,\"duration_s\":%.3f,\"offered_per_s\":%.3f,",
           total->open_loop ? "open" : "closed", options->threads, options->connections, options->duration_s,
           options->rate_per_s);
    printf("\"deadline_s\":%.4f,", options->deadline_s);
    const struct { const char *name; uint64_t value; } counts[] = {
        {"opened", total->opened}, {"failed_connects", total->failed_connects}, {"sent", total->sent},
        {"unsent", total->unsent}, {"answered", total->answered}, {"ok", total->ok},
        {"within_deadline", total->within_deadline}, {"broken", total->broken}, {"malformed", total->malformed},
        {"unanswered", total->unanswered}, {"received_bytes", total->received_bytes}};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        printf("\"%s\":%" PRIu64 ",", counts[i].name, counts[i].value);
    printf("\"rate_per_s\":%.3f,\"ok_per_s\":%.3f,\"goodput_per_s\":%.3f,",
           (double)total->in_window / options->duration_s, (double)total->ok_in_window / options->duration_s,
           (double)total->within_deadline / options->duration_s);
    printf("\"statuses\":{");
    const char *comma = "";
    for (int i = 0; i < MAX_STATUS; i++)
        if (total->statuses[i]) {
            printf("%s\"%d\":%" PRIu64, comma, i, total->statuses[i]);
            comma = ",";
        }
    printf("},");
    int slices = (int)(options->duration_s * 1e9 / SLICE_NS);
    if (slices > MAX_SLICES || !total->open_loop) slices = 0;
    const struct { const char *name; const uint64_t *counts; } lines[] = {
        {"due_in", total->due_in}, {"good_in", total->good_in}};
    for (size_t line = 0; line < sizeof lines / sizeof *lines; line++) {
        printf("\"%s\":[", lines[line].name);
        for (int i = 0; i < slices; i++) printf("%s%" PRIu64, i ? "," : "", lines[line].counts[i]);
        printf("],");
    }
    print_histogram("latency_us", &total->ok_latency);
    print_histogram("refusal_us", &total->other_latency);
    print_histogram("send_lag_us", &total->send_lag);
    printf("\"cpu_user_s\":%.6f,\"cpu_system_s\":%.6f,\"first_other_answer\":", user_s, system_s);
    print_text(total->sample);
    puts("}");
}

/* ---- the command line ---- */

static void load_requests(struct options *options, const char *path) {
    FILE *file = fopen(path, "rb");
    struct stat facts;
    if (file == NULL || fstat(fileno(file), &facts) < 0) fail(2, "cannot read %s: %s", path, strerror(errno));
    size_t size = (size_t)facts.st_size, at = 0, capacity = 0;
    char *bytes = allocate(size + 1, 1);
    if (fread(bytes, 1, size, file) != size) fail(2, "cannot read %s", path);
    fclose(file);
    while (at + 4 <= size) {
        const unsigned char *prefix = (const unsigned char *)bytes + at;
        size_t length = prefix[0] | (size_t)prefix[1] << 8 | (size_t)prefix[2] << 16 | (size_t)prefix[3] << 24;
        if (length == 0 || at + 4 + length > size) fail(2, "%s is not a file of requests", path);
        if (options->n_requests == capacity) {
            capacity = capacity ? capacity * 2 : 64;
            options->requests = realloc(options->requests, capacity * sizeof *options->requests);
            if (options->requests == NULL) fail(1, "out of memory");
        }
        options->requests[options->n_requests++] = (struct request){bytes + at + 4, length};
        at += 4 + length;
    }
    if (at != size || options->n_requests == 0) fail(2, "%s is not a file of requests", path);
}

static void resolve(struct options *options, const char *host, const char *port) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
    int error = getaddrinfo(host, port, &hints, &found);
    if (error != 0) fail(2, "%s:%s: %s", host, port, gai_strerror(error));
    memcpy(&options->address, found->ai_addr, found->ai_addrlen);
    options->address_size = found->ai_addrlen;
    freeaddrinfo(found);
}

static double number(const char *name, const char *text) {
    char *end;
    double value = text ? strtod(text, &end) : 0;
    if (text == NULL || end == text || *end != 0 || !(value >= 0)) fail(2, "%s needs a number that is not negative", name);
    return value;
}

static void parse(struct options *options, int n, char **arguments) {
    if (n < 4) fail(2, "usage: load HOST PORT REQUESTS --duration S [--connections N] [--rate R] ...");
    resolve(options, arguments[1], arguments[2]);
    load_requests(options, arguments[3]);
    for (int i = 4; i < n; i += 2) {
        const char *name = arguments[i];
        double value = number(name, i + 1 < n ? arguments[i + 1] : NULL);
        if (strcmp(name, "--duration") == 0) options->duration_s = value;
        else if (strcmp(name, "--connections") == 0) options->connections = (int)value;
        else if (strcmp(name, "--max-connections") == 0) options->max_connections = (int)value;
        else if (strcmp(name, "--threads") == 0) options->threads = (int)value;
        else if (strcmp(name, "--rate") == 0) options->rate_per_s = value;
        else if (strcmp(name, "--deadline-ms") == 0) options->deadline_s = value / 1e3;
        else if (strcmp(name, "--drain-s") == 0) options->drain_s = value;
        else if (strcmp(name, "--tick-us") == 0) options->tick_ns = (int64_t)(value * 1e3);
        else if (strcmp(name, "--seed") == 0) options->seed = (uint64_t)value;
        else fail(2, "unknown option %s", name);
    }
    if (options->max_connections < options->connections) options->max_connections = options->connections;
    if (options->threads < 1 || options->connections < options->threads)
        fail(2, "need at least one thread, and a connection for each");
    if (options->duration_s <= 0) fail(2, "need --duration above 0");
}

int main(int n, char **arguments) {
    struct options options = {
        .threads = 1, .connections = 64, .duration_s = 5, .drain_s = 2, .tick_ns = 50 * 1000, .seed = 1};
    parse(&options, n, arguments);
    signal(SIGPIPE, SIG_IGN);
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    struct worker *workers = allocate((size_t)options.threads, sizeof *workers), *total = allocate(1, sizeof *total);
    pthread_barrier_t barrier;
    pthread_barrier_init(&barrier, NULL, (unsigned)options.threads);
    int64_t start_ns = 0;
    for (int i = 0; i < options.threads; i++) {
        struct worker *worker = &workers[i];
        worker->options = &options;
        worker->barrier = &barrier;
        worker->start_ns = &start_ns;
        worker->leads = i == 0;
        worker->open_loop = options.rate_per_s > 0;
        worker->rate_per_s = options.rate_per_s / options.threads;
        worker->initial_connections = options.connections / options.threads + (i < options.connections % options.threads);
        worker->max_connections = worker->open_loop ? options.max_connections / options.threads : 0;
        if (worker->max_connections < worker->initial_connections) worker->max_connections = worker->initial_connections;
        worker->connections = allocate((size_t)worker->max_connections, sizeof *worker->connections);
        worker->next_request = (size_t)i * 7919 % options.n_requests;
        worker->random = options.seed * 0x100000001B3ULL + (uint64_t)i;
        if (pthread_create(&worker->thread, NULL, run_worker, worker) != 0) fail(1, "cannot start a thread");
    }
    for (int i = 0; i < options.threads; i++) {
        pthread_join(workers[i].thread, NULL);
        add(total, &workers[i]);
    }
    total->open_loop = options.rate_per_s > 0;
    print_result(&options, total);
    return total->answered > 0 ? 0 : 1;
}
