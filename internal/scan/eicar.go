package scan

import (
	"context"
	"errors"
	"os"
	"path/filepath"
)

// TestFile is the harmless test file of https://www.eicar.org/, 68 bytes that
// every product detects. It is put together here, so that neither this source
// nor the program made of it is detected.
func TestFile() []byte {
	b := []byte("(H+H$!ELIF-TSET-SURIVITNA-DRADNATS-RACIE$}7)CC7)^P(45XZP\\4[PA@%P!O5X")
	b[0] = '*'
	for i, j := 0, len(b)-1; i < j; i, j = i+1, j-1 {
		b[i], b[j] = b[j], b[i]
	}
	return b
}

// Try gives the scanner the test file, written below dir for the moment, and
// returns its verdict. taken is true if a product that watches the disk was
// faster and removed or locked the file.
func Try(ctx context.Context, s Scanner, dir string) (v Verdict, taken bool, err error) {
	f, err := os.CreateTemp(dir, "scan-test-*")
	if err != nil {
		return v, false, err
	}
	path := filepath.Clean(f.Name())
	defer os.Remove(path)
	b := TestFile()
	_, err = f.Write(b)
	err = errors.Join(err, f.Close())
	if err == nil {
		if f, err = os.Open(path); err == nil {
			defer f.Close()
			v, err = s.Scan(ctx, f, int64(len(b)))
		}
	}
	if _, gone := os.Stat(path); gone != nil || err != nil && !errors.Is(err, ErrUnavailable) && Guarded(err) {
		return Verdict{}, true, nil
	}
	return v, false, err
}
