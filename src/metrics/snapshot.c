/* A text as runs of bytes: those of blocks where they are, short ones copied together. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "metrics/exposition_impl.h"

#define CHUNK_BYTES (64u * 1024u)
#define PIECE_LEAST 768u /* copying less costs no more than one more run of bytes does in writev() */

struct snapshot *snapshot_new(struct exposition *e)
{
    struct snapshot *s = mem_zalloc(sizeof *s);
    s->exposition = e;
    s->users = 1;
    e->snapshots++;
    return s;
}

static void snapshot_free(struct snapshot *s)
{
    s->exposition->snapshots--;
    for (size_t i = 0; i < s->chunk_count; i++)
        free(s->chunks[i]);
    for (unsigned i = 0; i < s->block_count; i++)
        block_drop(s->blocks[i]);
    free((void *)s->chunks);
    free((void *)s->blocks);
    free(s->pieces);
    free(s);
}

void snapshot_unref(struct snapshot *s)
{
    assert(s->users > 0);
    if (--s->users > 0)
        return;
    struct exposition *e = s->exposition;
    snapshot_free(s);
    if (e->closing)
        loop_defer(e->loop, &e->assemble); /* ends the closing, not from inside this call */
}

static void add_piece(struct snapshot *s, const char *text, size_t length)
{
    if (s->count == s->capacity) {
        s->capacity = s->capacity > 0 ? s->capacity * 2 : 64;
        s->pieces = mem_resize(s->pieces, s->capacity, sizeof *s->pieces);
    }
    s->pieces[s->count++] = (struct http_piece){text, length};
}

static void add_chunk(struct snapshot *s)
{
    s->chunks = mem_resize((void *)s->chunks, s->chunk_count + 1, sizeof *s->chunks);
    s->chunks[s->chunk_count++] = mem_alloc(CHUNK_BYTES);
    s->room = CHUNK_BYTES;
}

void snapshot_copy(struct snapshot *s, const char *text, size_t length)
{
    while (length > 0) {
        if (s->room == 0)
            add_chunk(s);
        size_t n = length < s->room ? length : s->room;
        char *to = s->chunks[s->chunk_count - 1] + CHUNK_BYTES - s->room;
        memcpy(to, text, n);
        s->room -= n;
        text += n;
        length -= n;
        struct http_piece *last = s->count > 0 ? &s->pieces[s->count - 1] : NULL;
        if (last != NULL && (const char *)last->data + last->length == to)
            last->length += n;
        else
            add_piece(s, to, n);
    }
}

void snapshot_add(struct snapshot *s, const char *text, size_t length)
{
    if (length < PIECE_LEAST)
        snapshot_copy(s, text, length);
    else
        add_piece(s, text, length);
}

void snapshot_keep_blocks(struct snapshot *s)
{
    const struct exposition *e = s->exposition;
    assert(s->blocks == NULL);
    s->blocks = mem_array(e->block_count, sizeof(struct text_block *));
    s->block_count = e->block_count;
    for (unsigned i = 0; i < e->block_count; i++)
        s->blocks[i] = e->blocks[i] != NULL ? block_keep(e->blocks[i]) : NULL;
}

size_t snapshot_length(const struct snapshot *s)
{
    size_t length = 0;
    for (size_t i = 0; i < s->count; i++)
        length += s->pieces[i].length;
    return length;
}
