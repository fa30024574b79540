package mozilla

import (
	"slices"
	"strings"
	"time"

	"github.com/hashike/hashike/internal/feed"
)

// What a snapshot with an index has besides it, and how each file stands there:
// Fetch takes by it, Verify judges by it.

type want struct {
	names    []string // the file has one of them
	version  string   // of the release it belongs to
	stream   stream
	from     string // of a partial file
	mar      bool
	optional bool // partial files: the vendor has them for some versions only
	whole    bool // without it the snapshot is worth nothing: no group of its own
	time     time.Time
}

// wants lists the files of the index's releases, apart from their lists: for
// each release a stream offers the complete file, and partial ones from the
// versions it is offered to; of the newest the installers.
func (x *index) wants() []want {
	var out []want
	for _, s := range x.Streams {
		newest := s.newest()
		for _, r := range s.offered() {
			out = append(out, want{names: []string{x.complete(s, r.Version)}, version: r.Version, stream: s, mar: true, whole: r == *newest, time: r.time()})
			for _, a := range s.Asked {
				if a.Offer != nil && a.Offer.Version == r.Version {
					out = append(out, want{names: []string{x.partial(s, a.Version, r.Version)}, version: r.Version, stream: s, from: a.Version, mar: true, optional: true, time: r.time()})
				}
			}
		}
		for _, k := range x.Installers {
			if newest != nil && slices.Contains(platforms[s.Platform].installers, k) {
				out = append(out, want{names: x.installers(s, k, newest.Version), version: newest.Version, stream: s, time: newest.time()})
			}
		}
	}
	return out
}

// listed finds the file in its release's list.
func (w want) listed(x *index, sums map[string]feed.Digest) (string, feed.Digest, bool) {
	for _, n := range w.names {
		if d, ok := sums[strings.TrimPrefix(n, x.root(w.version)+"/")]; ok {
			return n, d, true
		}
	}
	return "", "", false
}

// said is what the service said of the file; a zero patch if nothing.
func (w want) said(answers map[string]*answer) patch {
	for _, a := range w.stream.Asked {
		ans := answers[w.stream.key()+" "+a.Version]
		if ans == nil || ans.Version != w.version {
			continue
		}
		if w.from == "" {
			return ans.complete
		}
		if w.from == a.Version {
			return ans.partial
		}
	}
	return patch{}
}

// class: a new version closes holes; an installer is for new terminals.
func (w want) class() feed.Class {
	if w.mar {
		return feed.Security
	}
	return feed.Feature
}

func (w want) group(name string) string {
	if w.whole {
		return ""
	}
	return name
}

func (w want) artifact(name string, d feed.Digest) feed.Artifact {
	return feed.Artifact{Path: name, Digest: d, Class: w.class(), Version: w.version, Time: w.time, Group: w.group(name)}
}

// listArtifact is a release's list or the list's signature: one group.
func (x *index) listArtifact(p, version string, d feed.Digest) feed.Artifact {
	return feed.Artifact{Path: p, Digest: d, Class: feed.Metadata, Version: version, Group: x.sums(version)}
}

// url is where the vendor has a file of the release tree.
func (f *updates) url(p string) string {
	return address(f.archive, p)
}

func compareKeys(a, b string) int { return strings.Compare(a, b) }
