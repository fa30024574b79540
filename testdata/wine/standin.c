// Stands in for certutil.exe -hashfile F SHA256 and for msiexec.exe and other
// installers under wine: the first prints the digest as Windows' own does, the
// others write what they were asked to ran.txt beside them and end with the
// number in code.txt there.
#include <windows.h>
#include <wincrypt.h>
#include <stdio.h>
#include <string.h>

static int hash(const char *name) {
	HCRYPTPROV p; HCRYPTHASH h; BYTE buf[65536], sum[32]; DWORD n = sizeof sum;
	FILE *f = fopen(name, "rb");
	if (!f) { printf("CertUtil: -hashfile command FAILED: 0x80070002\r\n"); return 2; }
	if (!CryptAcquireContextA(&p, NULL, NULL, PROV_RSA_AES, CRYPT_VERIFYCONTEXT) || !CryptCreateHash(p, CALG_SHA_256, 0, 0, &h)) return 3;
	for (size_t k; (k = fread(buf, 1, sizeof buf, f)) > 0;) CryptHashData(h, buf, (DWORD)k, 0);
	if (!CryptGetHashParam(h, HP_HASHVAL, sum, &n, 0)) return 4;
	printf("SHA256 hash of %s:\r\n", name);
	for (DWORD i = 0; i < n; i++) printf("%02x", sum[i]);
	printf("\r\nCertUtil: -hashfile command completed successfully.\r\n");
	return 0;
}

int main(int argc, char **argv) {
	char dir[MAX_PATH], path[MAX_PATH + 16];
	int code = 0;
	if (argc == 4 && !strcmp(argv[1], "-hashfile")) return hash(argv[2]);
	if (!GetEnvironmentVariableA("HASHIKE_RAN", dir, sizeof dir)) return 9;
	snprintf(path, sizeof path, "%s\\ran.txt", dir);
	FILE *f = fopen(path, "ab");
	if (!f) return 8;
	fprintf(f, "%s\n", GetCommandLineA());
	fclose(f);
	snprintf(path, sizeof path, "%s\\code.txt", dir);
	if ((f = fopen(path, "rb"))) { if (fscanf(f, "%d", &code) != 1) code = 7; fclose(f); }
	return code;
}
