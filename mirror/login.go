package mirror

import (
	"bufio"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/people"
)

// HashPassword is the line of the password file for one account:
// "name:$argon2id$v=19$m=19456,t=2,p=1$salt$hash".
func HashPassword(name, password string) (string, error) {
	if name == "" || strings.ContainsAny(name, ":\r\n") || len(password) < 8 {
		return "", fmt.Errorf("account %q: a name without a colon and a password of at least 8 bytes: %w", name, feed.ErrConfig)
	}
	return name + ":" + people.HashSecret(password), nil
}

// login asks for a name and password (HTTP basic: only ever over TLS or
// loopback). A good pair is remembered for ten minutes as a keyed hash, so that
// a page costs one argon2; one check runs at a time, so that guesses do not
// take the machine.
type login struct {
	accounts map[string]people.Secret
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
	l := &login{accounts: map[string]people.Secret{}, good: map[[32]byte]time.Time{}}
	rand.Read(l.key[:])
	sc := bufio.NewScanner(f)
	for n := 1; sc.Scan(); n++ {
		line := strings.TrimSpace(sc.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		name, hash, _ := strings.Cut(line, ":")
		a, err := people.ParseSecret(hash)
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
		a = people.NoSecret()
	}
	if !a.Is(password) || !known {
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
