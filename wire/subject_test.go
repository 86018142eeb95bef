package wire

import (
	"errors"
	"strings"
	"testing"
)

var somePseudonym = Pseudonym{9, 8, 7, 6, 5, 4, 3, 2, 1}

// subjectForms reads each kind of subject and writes it again.
var subjectForms = map[string]func(string) (string, error){
	"job":     func(s string) (string, error) { c, p, err := ParseJobSubject(s); return JobSubject(c, p), err },
	"outcome": func(s string) (string, error) { p, err := ParseOutcomeSubject(s); return OutcomeSubject(p), err },
	"route":   func(s string) (string, error) { tag, err := ParseRouteSubject(s); return RouteSubject(tag), err },
}

// TestSubjects: fixed names, and no ID and no number in any. [F-8] [F-5] [C-2]
func TestSubjects(t *testing.T) {
	p, tag := somePseudonym.String(), someTag.String()
	good := map[string][]string{
		"job":     {"bj.sms.job.normal." + p, "bj.sms.job.urgent." + p},
		"outcome": {"bj.sms.outcome." + p},
		"route":   {"bj.route." + tag},
	}
	for kind, subjects := range good {
		for _, s := range subjects {
			if got, err := subjectForms[kind](s); err != nil || got != s {
				t.Errorf("%q came back as %q, %v", s, got, err)
			}
			for other, form := range subjectForms {
				if _, err := form(s); other != kind && !errors.Is(err, ErrMalformed) {
					t.Errorf("a %s subject reads as %s: %v", kind, other, err)
				}
			}
		}
	}
	if JobSubjects() != "bj.sms.job.>" || OutcomeSubjects() != "bj.sms.outcome.*" {
		t.Errorf("%q, %q", JobSubjects(), OutcomeSubjects())
	}
	if c, got, err := ParseJobSubject(good["job"][1]); c != ClassUrgent || got != somePseudonym || err != nil {
		t.Errorf("class %v, %v", c, err)
	}
}

func TestSubjectsRefuse(t *testing.T) {
	p := somePseudonym.String()
	for _, s := range []string{"", ".", "bj.", "bj.sms.job.", "bj.sms.job.normal", "bj.sms.job.normal.", "bj.sms.job.Normal." + p, "bj.sms.job.other." + p,
		"bj.sms.job.normal." + p + ".x", "bj.sms.job.normal.*", "bj.sms.job.>", "bj.sms.job..", "bj.sms.job." + p, "bj.sms.outcome.", "bj.sms.outcome.*",
		"bj.sms.outcome." + p + "A", "bj.route.", "bj.route.>", "bj.route." + strings.Repeat("A", 1000), "BJ.route." + p, " bj.route." + p} {
		for kind, form := range subjectForms {
			if _, err := form(s); !errors.Is(err, ErrMalformed) {
				t.Errorf("%.40q reads as %s: %v", s, kind, err)
			}
		}
	}
}

// TestNamesNeverEscape: whatever bytes an identifier has, a subject has the tokens it should. [F-8]
func TestNamesNeverEscape(t *testing.T) {
	for b := range 256 {
		var p Pseudonym
		for i := range p {
			p[i] = byte(b)
		}
		for s, dots := range map[string]int{JobSubject(ClassNormal, p): 4, OutcomeSubject(p): 3, RouteSubject(Tag(p)): 2} {
			if strings.Count(s, ".") != dots || strings.ContainsAny(s, "*> \t\r\n") {
				t.Errorf("%q", s)
			}
		}
	}
}

func FuzzSubjects(f *testing.F) {
	f.Add(JobSubject(ClassUrgent, somePseudonym))
	f.Add(OutcomeSubject(somePseudonym))
	f.Add(RouteSubject(someTag))
	f.Fuzz(func(t *testing.T, s string) {
		for kind, form := range subjectForms {
			if got, err := form(s); err == nil && got != s {
				t.Errorf("%s: %q came back as %q", kind, s, got)
			}
		}
	})
}
