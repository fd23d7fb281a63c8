/* A viewer's stand-in for tests under wine: writes the arguments and the environment that it was started with
   into the file that STANDIN_RECORD names, and ends. */
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
    const char *asset = getenv("VIEWERASSET");
    const char *place = getenv("STANDIN_RECORD");
    FILE *record = fopen(place ? place : "standin.txt", "w");
    if (!record)
        return 3;
    for (int i = 1; i < argc; i++)
        fprintf(record, "argument %s\n", argv[i]);
    fprintf(record, "VIEWERASSET %s\n", asset ? asset : "");
    return fclose(record) ? 3 : 0;
}
