package wsus

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/feed"
)

// BenchmarkOffline reads a generated wsusscn2.cab of HASHIKE_OFFLINE revisions
// (a multiple of 10,000; 100000 is what a genuine one may have): choosing,
// extracting a tenth, proving the extract. Stored, not LZX: unpacking is measured in format/cab.
func BenchmarkOffline(b *testing.B) {
	n, _ := strconv.Atoi(os.Getenv("HASHIKE_OFFLINE"))
	if n == 0 {
		b.Skip("HASHIKE_OFFLINE is not set")
	}
	parts := map[string][]byte{"package.cab": oneFolder(map[string][]byte{"package.xml": []byte(`<OfflineSyncPackage CreationDate="2026-11-10T00:00:00Z"/>`)})}
	index := `<INDEX><CABLIST><CAB NAME="package.cab"/>`
	product := func(i int) guid { return numbered(900_000_000 + i%10) }
	for from := 0; from < n; from += 10_000 {
		files := map[string][]byte{}
		for i := from; i < from+10_000; i++ {
			files[fmt.Sprintf("c/%d", i)] = fmt.Appendf(nil, `<UpdateIdentity UpdateID="%s" RevisionNumber="200" /><Properties UpdateType="Software" ExplicitlyDeployable="true" /><Relationships><Prerequisites><AtLeastOne IsCategory="true"><UpdateIdentity UpdateID="%s" /></AtLeastOne><AtLeastOne IsCategory="true"><UpdateIdentity UpdateID="%s" /></AtLeastOne></Prerequisites></Relationships><ApplicabilityRules><IsInstallable>%s</IsInstallable></ApplicabilityRules>`, numbered(i+1), classSecurity, product(i), bytes.Repeat([]byte(`<b.FileExists Path="x" />`), 60))
			files[fmt.Sprintf("x/%d", i)] = fmt.Appendf(nil, `<ExtendedProperties DefaultPropertiesLanguage="en"><KBArticleID>%d</KBArticleID></ExtendedProperties>`, i)
			for _, l := range []string{"en", "ja", "de", "fr"} {
				files[fmt.Sprintf("l/%s/%d", l, i)] = fmt.Appendf(nil, `<LocalizedProperties><Language>%s</Language><Title>Update %d</Title><Description>%s</Description></LocalizedProperties>`, l, i, bytes.Repeat([]byte("text "), 60))
			}
		}
		name := fmt.Sprintf("package%d.cab", from/10_000+2)
		parts[name] = oneFolder(files)
		index += fmt.Sprintf(`<CAB NAME="%s" RANGESTART="%d"/>`, name, from)
	}
	parts["index.xml"] = []byte(index + "</CABLIST></INDEX>")
	whole := packed(b, parts)
	parts = nil
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	for b.Loop() {
		before := heap()
		o, err := openOffline(bytes.NewReader(whole), int64(len(whole)))
		if err != nil {
			b.Fatal(err)
		}
		began := time.Now()
		c, err := readCatalogue(o)
		if err != nil {
			b.Fatal(err)
		}
		read := time.Since(began)
		held := heap() - before
		chosen := c.choose([]guid{product(3)}, []guid{classSecurity})
		var x bytes.Buffer
		h := extractHead{feed.DigestOf(nil), time.Date(2026, 11, 10, 0, 0, 0, 0, time.UTC), "x"}
		began = time.Now()
		if err := writeExtract(&x, o, h, chosen); err != nil {
			b.Fatal(err)
		}
		wrote := time.Since(began)
		began = time.Now()
		if err := proveExtract(io.NewSectionReader(bytes.NewReader(x.Bytes()), 0, int64(x.Len())), o); err != nil {
			b.Fatal(err)
		}
		b.Logf("%d revisions, %d MB unpacked: read %s, extract of %d in %s (%d MB), proved in %s, %d MB held while choosing", n, len(whole)>>20, read, len(chosen), wrote, x.Len()>>20, time.Since(began), held>>20)
	}
}
