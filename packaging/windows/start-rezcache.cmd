@echo off
rem Starts your viewer through rezcache; the window stays open when something went wrong.
title rezcache
"%~dp0rezcache.exe" run %*
if errorlevel 1 pause
