/*
 * message_file: a look at each volume by volume_walk. Owns what message_file_free frees.
 */
#include "message_file.h"

#include <stdlib.h>

#include "base/check.h"
#include "store/volume_walk.h"

#define BLOCK_FIRST 16384             /* octets that most envelopes fit in */
#define BLOCK_MOST  (8 * 1024 * 1024) /* smtp.max_recipients of the longest addresses */

static void take_mailboxes(struct message_file *f, const struct envelope *e)
{
    free(f->mailboxes);
    free(f->reverse_path);
    f->reverse_path = span_dup(e->reverse_path);
    f->octets = e->complete ? e->size : 0;
    f->mailboxes = NEW_ARRAY(int64_t, e->n + 1);
    for (size_t i = 0; i < e->n; i++) {
        f->mailboxes[i] = (int64_t)e->to[i].mailbox_id;
    }
    f->n_mailboxes = e->n;
    free(f->uidl);
    f->uidl = span_dup(e->uidl);
    f->envelope = true;
    f->complete = e->complete;
}

/* The block ends with the first empty line; how long it is shows only there. */
static void read_envelope(struct volume_walk *w, struct message_place *p, struct message_file *f)
{
    size_t got = 0, n = BLOCK_FIRST;
    char *head = NULL;
    enum err e;
    do {
        free(head);
        head = NEW_ARRAY(char, n);
        e = volume_walk_read(w, p->path, 0, head, n, &got);
    } while (e == ERR_OK && got == n && !memmem(head, got, "\n\n", 2) && (n *= 8) <= BLOCK_MOST);
    struct envelope env;
    struct envelope_recipient *to = NULL;
    size_t skip;
    if (e == ERR_OK && envelope_parse(span_of(head, got), &env, &to, &skip) == ERR_OK) {
        take_mailboxes(f, &env);
    } else if (e != ERR_OK) {
        snprintf(p->why, sizeof p->why, "its envelope can't be read: %s", err_text(e));
    } else {
        snprintf(p->why, sizeof p->why, "it does not begin with an envelope");
    }
    free(to);
    free(head);
}

static void look_at(const struct volume *v, const struct spool_options *o, const struct blob_id *id,
                    struct message_place *p, struct message_file *f)
{
    struct volume_walk *w;
    struct walk_entry entry;
    p->volume = v->volume_id;
    spool_path(id, v->fanout, p->path);
    if (volume_walk_open(v, o, &w, p->why, sizeof p->why) != ERR_OK) {
        return;
    }
    enum err e = volume_walk_stat(w, p->path, &entry);
    p->looked = e == ERR_OK || e == ERR_NOTFOUND;
    p->stands = e == ERR_OK && entry.regular;
    if (p->stands) {
        p->size = entry.size;
        read_envelope(w, p, f);
    } else if (!p->looked) {
        snprintf(p->why, sizeof p->why, "%s: %s", p->path, err_text(e));
    }
    volume_walk_close(&w);
}

int message_file_find(struct admin *a, const struct blob_id *id, struct message_file *out)
{
    struct volume *volumes;
    struct spool_options o;
    struct message_file f = { 0 };
    char why[256];
    if (spool_options_read(a->config, &o, why, sizeof why) != ERR_OK) {
        return admin_fail(EX_CONFIG, "%s", why);
    }
    int code = admin_volumes(a, &volumes, &f.n);
    if (code != EX_OK) {
        return code;
    }
    f.places = NEW_ARRAY(struct message_place, f.n + 1);
    for (size_t i = 0; i < f.n; i++) {
        look_at(&volumes[i], &o, id, &f.places[i], &f);
    }
    free(volumes);
    *out = f;
    return EX_OK;
}

void message_file_free(struct message_file *f)
{
    free(f->places);
    free(f->mailboxes);
    free(f->reverse_path);
    free(f->uidl);
    *f = (struct message_file){ 0 };
}

const struct message_place *message_file_place(const struct message_file *f, int64_t volume)
{
    for (size_t i = 0; i < f->n; i++) {
        if (f->places[i].volume == volume) {
            return &f->places[i];
        }
    }
    return NULL;
}

const struct message_place *message_file_any(const struct message_file *f)
{
    for (size_t i = 0; i < f->n; i++) {
        if (f->places[i].stands) {
            return &f->places[i];
        }
    }
    return NULL;
}

const struct message_place *message_file_unseen(const struct message_file *f)
{
    for (size_t i = 0; i < f->n; i++) {
        if (!f->places[i].looked) {
            return &f->places[i];
        }
    }
    return NULL;
}
