/* Debian's wine has no bcryptprimitives.dll, which Rust's library wants for random numbers. Windows has; this
   one is for tests under wine only and goes into no package. */
#include <windows.h>

BOOLEAN NTAPI SystemFunction036(PVOID, ULONG);

__declspec(dllexport) BOOL WINAPI ProcessPrng(PBYTE data, SIZE_T length)
{
    return SystemFunction036(data, (ULONG)length);
}
