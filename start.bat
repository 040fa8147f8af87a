@echo off
rem Double-click this file. The first time it installs leanlens into the folder .venv beside it, which takes minutes;
rem every time it starts the server and opens its page. Words after its name go to "leanlens serve", such as
rem   start.bat --model turbo
setlocal
cd /d "%~dp0"
set "PYTHON=.venv\Scripts\python.exe"

if exist "%PYTHON%" goto installed
set "SYSTEM=py -3"
where py >nul 2>nul || set "SYSTEM=python"
%SYSTEM% -c "import sys; sys.exit(sys.version_info < (3, 11))" || goto without_python
%SYSTEM% -m venv .venv || goto failed

:installed
if exist ".venv\ready" goto start
echo Installing into the folder .venv ...
"%PYTHON%" -m pip install --quiet --upgrade pip uv || goto failed
rem "auto" takes the torch for the graphics card that is here; where there is none for its driver, the one for processors.
"%PYTHON%" -m uv pip install --python "%PYTHON%" --torch-backend auto --constraint constraints.txt --editable ".[serve]" && goto ready
echo Trying again, for the processor ...
"%PYTHON%" -m pip install --constraint constraints.txt --editable ".[serve]" || goto failed
:ready
echo installed> ".venv\ready"

:start
"%PYTHON%" examples\page.py %*
if %errorlevel% equ 130 exit /b 0
if errorlevel 1 goto failed
exit /b 0

:without_python
echo Python 3.11 or newer is needed: get it from python.org or the Microsoft Store, then start this file again.
goto failed

:failed
echo.
echo Something went wrong; the lines above say what. To begin again, delete the folder .venv.
pause
exit /b 1
