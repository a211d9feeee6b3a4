/*
 * Replays a corpus without libFuzzer: each argument is a file or a folder of files, each file one input.
 *
 * A crash or a sanitizer report is the failure. No input at all is one as well: a target without a corpus
 * tests nothing.
 */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define INPUT_MAX (1 << 22)

static int replay_file(const char *path)
{
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        perror(path);
        return -1;
    }
    char *buffer = malloc(INPUT_MAX);
    size_t size = buffer == NULL ? 0 : fread(buffer, 1, INPUT_MAX, file);
    fclose(file);
    /* A copy of exactly the input's size lets the sanitizer see a read past its end. */
    uint8_t *input = malloc(size == 0 ? 1 : size);
    for (size_t i = 0; input != NULL && i < size; i++)
        input[i] = (uint8_t)buffer[i];
    free(buffer);
    if (input == NULL)
        return -1;
    printf("%s (%zu bytes)\n", path, size);
    fflush(stdout);
    (void)LLVMFuzzerTestOneInput(input, size);
    free(input);
    return 1;
}

static int replay(const char *path);

static int replay_folder(const char *path)
{
    DIR *folder = opendir(path);
    if (folder == NULL) {
        perror(path);
        return -1;
    }
    int total = 0;
    for (struct dirent *entry = readdir(folder); entry != NULL && total >= 0; entry = readdir(folder)) {
        char inner[4096];
        if (entry->d_name[0] == '.')
            continue;
        (void)snprintf(inner, sizeof(inner), "%s/%s", path, entry->d_name);
        int count = replay(inner);
        total = count < 0 ? -1 : total + count;
    }
    closedir(folder);
    return total;
}

static int replay(const char *path)
{
    struct stat info;
    if (stat(path, &info) != 0) {
        perror(path);
        return -1;
    }
    return S_ISDIR(info.st_mode) ? replay_folder(path) : replay_file(path);
}

int main(int argc, char **argv)
{
    int total = 0;
    for (int i = 1; i < argc; i++) {
        int count = replay(argv[i]);
        if (count < 0)
            return 1;
        total += count;
    }
    printf("%d inputs replayed\n", total);
    if (total == 0)
        (void)fprintf(stderr, "no input: keep at least one in the corpus\n");
    return total == 0;
}
