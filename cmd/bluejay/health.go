package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// healthTime bounds a health check; what takes longer is not healthy.
const healthTime = 5 * time.Second

// defaultHealth is where a role of the node answers, unless it was told otherwise.
const defaultHealth = "http://127.0.0.1:8080/readyz"

func healthCmd() *cobra.Command {
	return &cobra.Command{
		Use: "health [URL]", Short: "Ask whether something is ready: for containers that have no shell",
		Long: `Exit code 0 if URL answers 200 within 5 seconds; else 1, with the first line of the answer. Without URL it
asks ` + defaultHealth + `. A URL like tcp://127.0.0.1:13013 asks only whether something listens there.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), healthTime)
			defer cancel()
			return checkHealth(ctx, append(args, defaultHealth)[0])
		},
	}
}

// checkHealth asks once; ctx bounds it.
func checkHealth(ctx context.Context, at string) error {
	u, err := url.Parse(at)
	if err != nil || u.Host == "" {
		return fmt.Errorf("health: want a URL like %s or tcp://HOST:PORT", defaultHealth)
	}
	switch u.Scheme {
	case "tcp":
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", u.Host)
		if err != nil {
			return fmt.Errorf("health: %w", err)
		}
		return conn.Close()
	case "http", "https":
		return getHealth(ctx, u)
	}
	return fmt.Errorf("health: the URL must begin with http, https or tcp, not %q", u.Scheme)
}

// maxHealth bounds what is repeated of an answer, in bytes.
const maxHealth = 512

func getHealth(ctx context.Context, u *url.URL) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return fmt.Errorf("health: %w", err)
	}
	client := http.Client{ // no proxy of the environment: it asks a neighbour
		Transport:     &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("health: %w", err)
	}
	line, err := bufio.NewReader(io.LimitReader(resp.Body, maxHealth)).ReadString('\n')
	if errors.Is(err, io.EOF) {
		err = nil
	}
	switch err := errors.Join(err, resp.Body.Close()); {
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("health: status %d: %q", resp.StatusCode, strings.TrimSpace(line))
	case err != nil:
		return fmt.Errorf("health: %w", err)
	}
	return nil
}
