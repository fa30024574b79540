/*
 * bcryptprimitives.dll for tests under wine before 9.0.
 *
 * Go's runtime takes its random numbers from ProcessPrng, which Windows has
 * since version 7 and Debian 12's wine 8.0 lacks: a Go program stops at start.
 * This library has that one function and fills the buffer through
 * SystemFunction036 (RtlGenRandom) of advapi32, which wine has. It is built
 * and put into a throw-away wine prefix by the tests; it is no part of Hashike.
 *
 *   x86_64-w64-mingw32-gcc -shared -o bcryptprimitives.dll bcryptprimitives.c -ladvapi32
 */
#include <windows.h>

BOOLEAN NTAPI SystemFunction036(PVOID buffer, ULONG length);

/* ProcessPrng always succeeds on Windows; here a failure ends the process. */
__declspec(dllexport) BOOL WINAPI ProcessPrng(PBYTE buffer, SIZE_T length)
{
	while (length > 0) {
		ULONG n = length > 0x10000000 ? 0x10000000 : (ULONG)length;
		if (!SystemFunction036(buffer, n))
			ExitProcess(3);
		buffer += n;
		length -= n;
	}
	return TRUE;
}
