/* A server that gives every request the same answer, as cheaply as a process can.
 *
 *   absorb 503|200      (listens on any free port of the loopback and prints its number)
 *
 * With 503 it takes the excess while another server's capacity is measured, so that the generator's own
 * work is there in both measurements. With 200 it shows what this machine's sockets cost by themselves:
 * no server that reads and writes them can cost less. One process, one thread. Ends on SIGTERM.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define BUFFER_BYTES 16384
#define EVENTS_PER_WAIT 256

static const char REFUSAL[] =
    "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: 16\r\n\r\n{\"error\":\"busy\"}";
static const char CONSTANT[] =
    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 21\r\n\r\n{\"prediction\":[0.25]}";
static const char *answer = REFUSAL;
static ssize_t answer_size = sizeof REFUSAL - 1;

struct connection {
    int fd;
    size_t filled, skip; /* bytes of an unfinished head; bytes of a refused body still to come */
    char buffer[BUFFER_BYTES + 1];
};

static void fail(const char *what) {
    fprintf(stderr, "absorb: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int listen_on_any(void) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), on = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, size) < 0 || listen(fd, 4096) < 0) fail("cannot listen");
    getsockname(fd, (struct sockaddr *)&address, &size);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    return fd;
}

static void accept_all(int epoll, int listener) {
    int fd;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        int on = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        struct connection *connection = calloc(1, sizeof *connection);
        if (connection == NULL) fail("no memory");
        connection->fd = fd;
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = connection};
        if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0) fail("epoll_ctl");
    }
}

static size_t body_size(const char *head, const char *end) {
    for (const char *line = head; line && line < end; line = memchr(line, '\n', (size_t)(end - line))) {
        if (*line == '\n') line++;
        if (strncasecmp(line, "content-length:", 15) == 0) return strtoull(line + 15, NULL, 10);
    }
    return 0;
}

/* Answer every head in the buffer. Return -1 when the connection is of no more use. */
static int refuse(struct connection *connection) {
    for (;;) {
        size_t dropped = connection->skip < connection->filled ? connection->skip : connection->filled;
        connection->skip -= dropped;
        connection->filled -= dropped;
        memmove(connection->buffer, connection->buffer + dropped, connection->filled);
        if (connection->filled == 0) return 0;
        connection->buffer[connection->filled] = 0;
        const char *end = memmem(connection->buffer, connection->filled, "\r\n\r\n", 4);
        if (end == NULL) return connection->filled == BUFFER_BYTES ? -1 : 0;
        connection->skip = (size_t)(end - connection->buffer) + 4 + body_size(connection->buffer, end);
        if (send(connection->fd, answer, (size_t)answer_size, MSG_NOSIGNAL) != answer_size) return -1;
    }
}

int main(int n, char **arguments) {
    signal(SIGPIPE, SIG_IGN);
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    if (n != 2 || (strcmp(arguments[1], "503") != 0 && strcmp(arguments[1], "200") != 0)) {
        fputs("usage: absorb 503|200\n", stderr);
        return 2;
    }
    if (arguments[1][0] == '2') {
        answer = CONSTANT;
        answer_size = sizeof CONSTANT - 1;
    }
    int listener = listen_on_any(), epoll = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL}, events[EVENTS_PER_WAIT];
    if (epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event) < 0) fail("epoll");
    for (;;) {
        int count = epoll_wait(epoll, events, EVENTS_PER_WAIT, -1);
        for (int i = 0; i < count; i++) {
            struct connection *connection = events[i].data.ptr;
            if (connection == NULL) {
                accept_all(epoll, listener);
                continue;
            }
            ssize_t got = recv(connection->fd, connection->buffer + connection->filled,
                               BUFFER_BYTES - connection->filled, 0);
            if (got < 0 && (errno == EAGAIN || errno == EINTR)) continue;
            if (got > 0) connection->filled += (size_t)got;
            if (got <= 0 || refuse(connection) < 0) {
                close(connection->fd);
                free(connection);
            }
        }
    }
}
