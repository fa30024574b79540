/*
 * hold FILE: opens FILE as most Windows programs do (readers may join, nobody
 * may rename or remove it: no FILE_SHARE_DELETE), says "held", and keeps it
 * open until its standard input ends. The tests run it beside "hashike gc".
 *
 *   x86_64-w64-mingw32-gcc -municode -o hold.exe hold.c
 */
#include <windows.h>

int wmain(int argc, wchar_t **argv)
{
	char c;
	DWORD n;
	HANDLE f;

	if (argc != 2)
		return 2;
	f = CreateFileW(argv[1], GENERIC_READ, FILE_SHARE_READ, NULL, OPEN_EXISTING, 0, NULL);
	if (f == INVALID_HANDLE_VALUE)
		return 1;
	WriteFile(GetStdHandle(STD_OUTPUT_HANDLE), "held\n", 5, &n, NULL);
	while (ReadFile(GetStdHandle(STD_INPUT_HANDLE), &c, 1, &n, NULL) && n > 0)
		;
	CloseHandle(f);
	return 0;
}
