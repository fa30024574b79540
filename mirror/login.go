package mirror

import (
	"bufio"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"golang.org/x/crypto/argon2"
)

// Parameters of argon2id (RFC 9106 §4, second choice, with less memory: the
// OWASP minimum of 19 MiB). Files may ask for more, within bounds.
const (
	argonTime, argonMemory, argonThreads = 2, 19 << 10, 1
	maxArgonTime, maxArgonMemory         = 10, 256 << 10
)

// HashPassword is the line of the password file for one account:
// "name:$argon2id$v=19$m=19456,t=2,p=1$salt$hash".
func HashPassword(name, password string) (string, error) {
	if name == "" || strings.ContainsAny(name, ":\r\n") || len(password) < 8 {
		return "", fmt.Errorf("account %q: a name without a colon and a password of at least 8 bytes: %w", name, feed.ErrConfig)
	}
	salt := make([]byte, 16)
	rand.Read(salt)
	sum := argon2.IDKey([]byte(password), salt, argonTime, argonMemory, argonThreads, 32)
	e := base64.RawStdEncoding
	return fmt.Sprintf("%s:$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", name, argon2.Version, argonMemory, argonTime, argonThreads,
		e.EncodeToString(salt), e.EncodeToString(sum)), nil
}

type account struct {
	time, memory uint32
	threads      uint8
	salt, sum    []byte
}

func parseAccount(s string) (account, error) {
	bad := fmt.Errorf("not a line of hashike keys password: %w", feed.ErrConfig)
	f := strings.Split(s, "$")
	if len(f) != 6 || f[0] != "" || f[1] != "argon2id" || f[2] != fmt.Sprintf("v=%d", argon2.Version) {
		return account{}, bad
	}
	var a account
	if n, err := fmt.Sscanf(f[3], "m=%d,t=%d,p=%d", &a.memory, &a.time, &a.threads); n != 3 || err != nil {
		return account{}, bad
	}
	var err1, err2 error
	a.salt, err1 = base64.RawStdEncoding.DecodeString(f[4])
	a.sum, err2 = base64.RawStdEncoding.DecodeString(f[5])
	if err1 != nil || err2 != nil || len(a.sum) < 16 || len(a.sum) > 64 || len(a.salt) < 8 || a.threads < 1 || a.threads > 16 ||
		a.time < 1 || a.time > maxArgonTime || a.memory < 8<<10 || a.memory > maxArgonMemory {
		return account{}, bad
	}
	return a, nil
}

func (a account) check(password string) bool {
	sum := argon2.IDKey([]byte(password), a.salt, a.time, a.memory, a.threads, uint32(len(a.sum)))
	return subtle.ConstantTimeCompare(sum, a.sum) == 1
}

// login asks for a name and password (HTTP basic: only ever over TLS or
// loopback). A good pair is remembered for ten minutes as a keyed hash, so that
// a page costs one argon2; one check runs at a time, so that guesses do not
// take the machine.
type login struct {
	accounts map[string]account
	key      [32]byte
	slow     sync.Mutex
	mu       sync.Mutex
	good     map[[32]byte]time.Time
}

// openLogin reads a password file: one account a line, "#" begins a comment.
func openLogin(path string) (*login, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("password file: %w: %w", err, feed.ErrConfig)
	}
	defer f.Close()
	l := &login{accounts: map[string]account{}, good: map[[32]byte]time.Time{}}
	rand.Read(l.key[:])
	sc := bufio.NewScanner(f)
	for n := 1; sc.Scan(); n++ {
		line := strings.TrimSpace(sc.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		name, hash, _ := strings.Cut(line, ":")
		a, err := parseAccount(hash)
		if err != nil || name == "" {
			return nil, fmt.Errorf("password file %s line %d: %w", path, n, err)
		}
		l.accounts[name] = a
	}
	if err := sc.Err(); err != nil {
		return nil, fmt.Errorf("password file %s: %w", path, err)
	}
	if len(l.accounts) == 0 {
		return nil, fmt.Errorf("password file %s names nobody: %w", path, feed.ErrConfig)
	}
	return l, nil
}

const loginLife = 10 * time.Minute

func (l *login) allows(name, password string) bool {
	mac := hmac.New(sha256.New, l.key[:])
	fmt.Fprintf(mac, "%d:%s%s", len(name), name, password)
	k := [32]byte(mac.Sum(nil))
	l.mu.Lock()
	until, ok := l.good[k]
	l.mu.Unlock()
	if ok && time.Now().Before(until) {
		return true
	}
	l.slow.Lock()
	defer l.slow.Unlock()
	a, known := l.accounts[name]
	if !known { // the same time for a name that does not exist
		a = account{argonTime, argonMemory, argonThreads, make([]byte, 16), make([]byte, 32)}
	}
	if !a.check(password) || !known {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.good) > 1000 {
		clear(l.good)
	}
	l.good[k] = time.Now().Add(loginLife)
	return true
}

func (l *login) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, password, ok := r.BasicAuth()
		if !ok || len(password) > 1024 || !l.allows(name, password) {
			w.Header().Set("WWW-Authenticate", `Basic realm="hashike", charset="UTF-8"`)
			http.Error(w, "login required", http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}
