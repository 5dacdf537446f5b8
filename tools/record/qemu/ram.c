#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "recorder.h"

static const char *const NAME[] = { "queue", "strtab", "ste", "cd", "pt", "root", "ctx", "pasiddir", "pasidtbl", "irt" };

struct page {
    uint8_t *seen; /* what the log says it holds; null: not followed */
    uint32_t look;
    uint8_t kind, level, format;
};

/* Pieces of guest RAM, and where in the file they lie. */
static struct { uint64_t gpa, bytes, offset; } piece[8];
static unsigned int pieces;
static const uint8_t *file;
static uint64_t file_bytes;
static struct page *pages;
static uint64_t *followed, count, room;
static uint32_t this_look;
static unsigned long long stores, differences, joined;

/* GPA:BYTES:OFFSET */
bool ram_add(const char *text)
{
    char *end;
    if (pieces == sizeof piece / sizeof *piece)
        return false;
    piece[pieces].gpa = strtoull(text, &end, 0);
    if (*end++ != ':')
        return false;
    piece[pieces].bytes = strtoull(end, &end, 0);
    if (*end++ != ':')
        return false;
    piece[pieces++].offset = strtoull(end, &end, 0);
    return *end == 0;
}

bool ram_open(const char *path)
{
    struct stat s;
    int fd = open(path, O_RDONLY);
    if (fd < 0)
        return false;
    /* QEMU makes the file and gives it its size while it starts: the first access comes later. */
    if (fstat(fd, &s) || s.st_size == 0) {
        close(fd);
        return false;
    }
    file_bytes = (uint64_t)s.st_size;
    file = mmap(NULL, file_bytes, PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    if (file == MAP_FAILED) {
        file = NULL;
        return false;
    }
    pages = calloc(file_bytes / PAGE, sizeof *pages);
    return pages != NULL;
}

/* Offset in the file; all ones: no RAM, or not all of it in one piece. */
static uint64_t offset_of(uint64_t pa, uint64_t bytes)
{
    for (unsigned int i = 0; file && i < pieces; i++) {
        uint64_t at = pa - piece[i].gpa;
        if (at < piece[i].bytes && bytes <= piece[i].bytes - at && piece[i].offset + at + bytes <= file_bytes)
            return piece[i].offset + at;
    }
    return UINT64_MAX;
}

static uint64_t gpa_of(uint64_t offset)
{
    for (unsigned int i = 0; i < pieces; i++)
        if (offset - piece[i].offset < piece[i].bytes)
            return piece[i].gpa + (offset - piece[i].offset);
    return 0;
}

bool ram_has(uint64_t pa, uint64_t bytes)
{
    return offset_of(pa, bytes) != UINT64_MAX;
}

const uint8_t *ram_at(uint64_t pa)
{
    return file + offset_of(pa, 1);
}

uint64_t ram_u64(uint64_t pa)
{
    uint64_t v = 0, at = offset_of(pa, 8);
    if (at != UINT64_MAX)
        memcpy(&v, file + at, 8);
    return v;
}

void look_begins(void)
{
    this_look++;
}

void look_ends(void)
{
    uint64_t kept = 0;
    for (uint64_t i = 0; i < count; i++) {
        struct page *p = &pages[followed[i]];
        if (p->look == this_look) {
            followed[kept++] = followed[i];
            continue;
        }
        say("X 0x%llx", (unsigned long long)gpa_of(followed[i] * PAGE));
        free(p->seen);
        p->seen = NULL;
    }
    count = kept;
}

/* Stores that no callback told of: DMA, and what a processor does without one. */
static void compare(struct page *p, uint64_t gpa, const uint8_t *now)
{
    if (!memcmp(now, p->seen, PAGE))
        return;
    for (uint64_t i = 0; i < PAGE; i += 8) {
        if (!memcmp(now + i, p->seen + i, 8))
            continue;
        memcpy(p->seen + i, now + i, 8);
        say_bytes('D', gpa + i, p->seen + i, 8);
        differences++;
    }
}

bool follow(uint64_t pa, enum kind kind, int level, int format)
{
    uint64_t gpa = pa & ~(PAGE - 1), at = offset_of(gpa, PAGE);
    if (at == UINT64_MAX)
        return false;
    struct page *p = &pages[at / PAGE];
    bool fresh = p->look != this_look;
    p->look = this_look;
    if (!p->seen) {
        p->seen = malloc(PAGE);
        if (!p->seen)
            abort();
        memcpy(p->seen, file + at, PAGE);
        if (count == room) {
            room = room ? 2 * room : 1024;
            followed = realloc(followed, room * sizeof *followed);
            if (!followed)
                abort();
        }
        followed[count++] = at / PAGE;
        static const uint8_t zero[PAGE];
        if (!memcmp(p->seen, zero, PAGE))
            say("Z 0x%llx %s", (unsigned long long)gpa, NAME[kind]);
        else {
            say("K %s", NAME[kind]);
            say_bytes('P', gpa, p->seen, PAGE);
        }
        joined++;
        fresh = true;
    } else if (fresh)
        compare(p, gpa, file + at);
    if (fresh || kind == PT) {
        p->kind = kind;
        p->level = level;
        p->format = format;
    }
    return fresh;
}

void follow_range(uint64_t pa, uint64_t bytes, enum kind kind)
{
    for (uint64_t a = pa & ~(PAGE - 1); a < pa + bytes; a += PAGE)
        follow(a, kind, 0, 0);
}

bool stored(uint64_t pa, const uint8_t *bytes, unsigned int size)
{
    uint64_t at = offset_of(pa, size);
    if (at == UINT64_MAX)
        return false;
    struct page *p = &pages[at / PAGE];
    if (!p->seen)
        return false;
    memcpy(p->seen + at % PAGE, bytes, size);
    say_bytes('S', pa, bytes, size);
    stores++;
    if (p->kind == PT) {
        for (uint64_t a = pa & ~7ull; a < pa + size; a += 8)
            iommu->descriptor(ram_u64(a), p->level, p->format);
    } else if (p->kind != QUEUE && p->kind != IRT) {
        /* An entry of a stream table, context or PASID table: without caching mode no register write need follow. */
        look_begins();
        iommu->look(0);
    }
    return true;
}

void ram_totals(char *text, size_t size)
{
    snprintf(text, size, "stores=%llu differences=%llu pages=%llu", stores, differences, joined);
}
