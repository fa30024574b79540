package wsus

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// SOAP 1.1, document/literal, as much of it as update clients speak.

const (
	nsSOAP      = "http://schemas.xmlsoap.org/soap/envelope/"
	nsClient    = "http://www.microsoft.com/SoftwareDistribution/Server/ClientWebService"
	nsAuth      = "http://www.microsoft.com/SoftwareDistribution/Server/SimpleAuthWebService"
	nsReporting = "http://www.microsoft.com/SoftwareDistribution"
)

// Limits on one request. A real one has some thousand elements.
const (
	maxRequest  = 4 << 20
	maxElements = 200_000
	maxDepth    = 24
	maxPath     = 1024 // bytes of a path of names; else each leaf below a long name would cost its length
	maxText     = 512  // of one name that a terminal chooses
)

// fault is a SOAP fault; code is one of MS-WUSP 2.2.2.4.
type fault struct{ code, message string }

func (f *fault) Error() string { return f.code + ": " + f.message }

func invalid(parameter string) error { return &fault{"InvalidParameters", parameter} }

// request is one decoded call: each leaf element goes to the operation by its
// path below it ("parameters/InstalledNonLeafUpdateIDs/int"); elements that an
// operation does not know are passed over, as clients send more than the WSDL has.
type request struct {
	op   string
	walk func(func(path, text string) error) error
	// walkEnds is walk that also calls for the end of each element with
	// children, as "path/" without text.
	walkEnds func(func(path, text string) error) error
}

var errSOAP = errors.New("not a SOAP request")

// decode reads the envelope up to the operation; walk reads the rest.
func decode(r io.Reader, namespace string) (*request, error) {
	return decodeUpTo(r, namespace, maxElements)
}

// decodeAnswer is decode for what an upstream server sends: its lists are long.
func decodeAnswer(r io.Reader, namespace string) (*request, error) {
	return decodeUpTo(r, namespace, 4*maxListed)
}

func decodeUpTo(r io.Reader, namespace string, most int) (*request, error) {
	d := xml.NewDecoder(r)
	want := []xml.Name{{Space: nsSOAP, Local: "Envelope"}, {Space: nsSOAP, Local: "Body"}}
	for i := 0; ; {
		t, err := d.Token()
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errSOAP, err)
		}
		switch t := t.(type) {
		case xml.StartElement:
			switch {
			case i < len(want) && t.Name == want[i]:
				i++
			case i == 1 && t.Name == xml.Name{Space: nsSOAP, Local: "Header"}:
				if err := skip(d); err != nil {
					return nil, err
				}
			case i == len(want) && t.Name.Space == namespace:
				return &request{t.Name.Local, func(f func(string, string) error) error { return leaves(d, most, false, f) },
					func(f func(string, string) error) error { return leaves(d, most, true, f) }}, nil
			default:
				return nil, fmt.Errorf("%w: element %.100q", errSOAP, t.Name.Local)
			}
		case xml.Directive:
			return nil, fmt.Errorf("%w: a document type", errSOAP)
		case xml.EndElement:
			return nil, errSOAP
		}
	}
}

func skip(d *xml.Decoder) error {
	return leaves(d, maxElements, false, func(string, string) error { return nil })
}

// leaves calls f for every element without children, until the current element
// ends; with ends, also where an element with children ends.
func leaves(d *xml.Decoder, most int, ends bool, f func(path, text string) error) error {
	var path []string
	var text []byte
	leaf, length := false, 0
	var joined []byte
	last := "" // the path before: long lists have one path
	name := func() string {
		joined = joined[:0]
		for i, e := range path {
			if i > 0 {
				joined = append(joined, '/')
			}
			joined = append(joined, e...)
		}
		if string(joined) != last {
			last = string(joined)
		}
		return last
	}
	for n := 0; ; {
		t, err := d.Token()
		if err != nil {
			return fmt.Errorf("%w: %w", errSOAP, err)
		}
		switch t := t.(type) {
		case xml.StartElement:
			if n++; n > most || len(path) >= maxDepth || length+len(t.Name.Local) > maxPath {
				return fmt.Errorf("%w: too large", errSOAP)
			}
			length += len(t.Name.Local)
			path, text, leaf = append(path, t.Name.Local), text[:0], true
		case xml.CharData:
			text = append(text, t...)
		case xml.EndElement:
			if len(path) == 0 {
				return nil
			}
			var err error
			switch {
			case leaf:
				err = f(name(), string(text))
			case ends:
				err = f(name()+"/", "")
			}
			if err != nil {
				return err
			}
			length -= len(path[len(path)-1])
			path, text, leaf = path[:len(path)-1], text[:0], false
		case xml.Directive:
			return fmt.Errorf("%w: a document type", errSOAP)
		}
	}
}

// numbers collects a list of ints with a bound; past it, the parameter is invalid.
type numbers struct {
	list []int32
	most int
}

func (n *numbers) add(text, parameter string) error {
	v, err := strconv.ParseInt(strings.TrimSpace(text), 10, 32)
	if err != nil || len(n.list) >= n.most {
		return invalid(parameter)
	}
	n.list = append(n.list, int32(v))
	return nil
}

// texts does the same for strings.
func texts(list []string, text, parameter string, most int) ([]string, error) {
	if len(list) >= most || len(text) > maxText {
		return nil, invalid(parameter)
	}
	return append(list, strings.TrimSpace(text)), nil
}

// answer is a response being written.
type answer struct {
	bytes.Buffer
	open []string
}

func (a *answer) begin(tags ...string) {
	for _, t := range tags {
		a.WriteString("<" + t + ">")
		a.open = append(a.open, t)
	}
}

func (a *answer) end(n int) {
	for range n {
		t := a.open[len(a.open)-1]
		a.open = a.open[:len(a.open)-1]
		a.WriteString("</" + t + ">")
	}
}

// put writes one element with text.
func (a *answer) put(tag, text string) {
	a.WriteString("<" + tag + ">")
	_ = xml.EscapeText(&a.Buffer, []byte(text))
	a.WriteString("</" + tag + ">")
}

func (a *answer) flag(tag string, v bool) { a.plain(tag, strconv.AppendBool(make([]byte, 0, 8), v)) }
func (a *answer) int(tag string, v int32) {
	a.plain(tag, strconv.AppendInt(make([]byte, 0, 16), int64(v), 10))
}

// plain writes one element whose text needs no escaping.
func (a *answer) plain(tag string, text []byte) {
	a.WriteByte('<')
	a.WriteString(tag)
	a.WriteByte('>')
	a.Write(text)
	a.WriteString("</")
	a.WriteString(tag)
	a.WriteByte('>')
}

func (a *answer) ints(tag string, list []int32) {
	if len(list) == 0 {
		return
	}
	a.begin(tag)
	for _, v := range list {
		a.int("int", v)
	}
	a.end(1)
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05Z") }

const xmlHead = `<?xml version="1.0" encoding="utf-8"?><s:Envelope xmlns:s="` + nsSOAP + `"><s:Body>`

// send writes an operation's answer; body is what stands within its response element.
func send(w http.ResponseWriter, op, namespace string, body []byte) {
	head := xmlHead + "<" + op + `Response xmlns="` + namespace + `">`
	tail := "</" + op + "Response></s:Body></s:Envelope>"
	h := w.Header()
	h.Set("Content-Type", "text/xml; charset=utf-8")
	h.Set("Cache-Control", "private, max-age=0")
	h.Set("Content-Length", strconv.Itoa(len(head)+len(body)+len(tail)))
	_, _ = io.WriteString(w, head)
	_, _ = w.Write(body)
	_, _ = io.WriteString(w, tail)
}

// sendFault answers with HTTP 500, as SOAP 1.1 §6.2 wants.
func sendFault(w http.ResponseWriter, op, namespace string, f *fault) {
	var a answer
	a.WriteString(xmlHead + "<s:Fault><faultcode>s:Client</faultcode><faultstring>Fault occurred</faultstring><detail>")
	a.put("ErrorCode", f.code)
	a.put("Message", f.message)
	a.put("ID", newGUID().String())
	a.put("Method", `"`+namespace+"/"+op+`"`)
	a.WriteString("</detail></s:Fault></s:Body></s:Envelope>")
	w.Header().Set("Content-Type", "text/xml; charset=utf-8")
	if f.code == codeBusy {
		w.Header().Set("Retry-After", retryAfter)
	}
	w.WriteHeader(http.StatusInternalServerError)
	_, _ = w.Write(a.Bytes())
}
